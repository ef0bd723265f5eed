"""Losses. Each says by `expects` what it is computed from: `logits` here."""

from hyplearn.losses.classification import CrossEntropy

__all__ = ["CrossEntropy"]
