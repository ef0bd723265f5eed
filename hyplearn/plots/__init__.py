"""Figures of finished runs: each is saved as a picture together with the numbers it shows."""
