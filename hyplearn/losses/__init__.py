"""Losses. Each says by `expects` what it is computed from: `logits` or `embeddings`."""

from hyplearn.losses.class_proxies import (
    ArcFace,
    NormalizedSoftmax,
    ProxyAnchor,
    ProxyNCA,
    ProxyNCAPlusPlus,
    SoftTriple,
)
from hyplearn.losses.classification import CrossEntropy
from hyplearn.losses.hier import HIER, HierarchicalLoss
from hyplearn.losses.mix import ConvexCombination
from hyplearn.losses.pairs import Contrastive, CrossBatchMemory, FastAP, Margin, MultiSimilarity, Triplet
from hyplearn.losses.pairwise import PairwiseCrossEntropy

__all__ = [
    "HIER",
    "ArcFace",
    "Contrastive",
    "ConvexCombination",
    "CrossBatchMemory",
    "CrossEntropy",
    "FastAP",
    "HierarchicalLoss",
    "Margin",
    "MultiSimilarity",
    "NormalizedSoftmax",
    "PairwiseCrossEntropy",
    "ProxyAnchor",
    "ProxyNCA",
    "ProxyNCAPlusPlus",
    "SoftTriple",
    "Triplet",
]
