"""Data sets: where their files lie, what their official layout is, which images are queries."""
