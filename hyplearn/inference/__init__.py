"""Trained models in use: opened from a run or an export, asked for classes, neighbours and features."""
