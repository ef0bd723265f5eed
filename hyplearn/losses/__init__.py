"""Losses. Each says by `expects` what it is computed from: `logits` or `embeddings`."""

from hyplearn.losses.classification import CrossEntropy
from hyplearn.losses.hier import HIER, HierarchicalLoss
from hyplearn.losses.pairwise import PairwiseCrossEntropy

__all__ = ["HIER", "CrossEntropy", "HierarchicalLoss", "PairwiseCrossEntropy"]
