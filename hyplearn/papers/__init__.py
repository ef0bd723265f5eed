"""The two papers as data: every printed number, the cells of their tables, and the runs that answer them."""
