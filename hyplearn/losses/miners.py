"""Miners of pytorch-metric-learning by name: which pairs and triplets of a batch a loss looks at."""

from __future__ import annotations

from typing import Any, Literal

from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import BaseDistance
from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_triplets
from torch import Tensor

from hyplearn.errors import one_of

MinerName = Literal["all", "semi_hard", "hard", "batch_hard", "batch_easy_hard", "multi_similarity"]


def build_miner(name: MinerName, distance: BaseDistance, *, margin: float) -> Any:
    """Return the miner of that name under a distance; None for 'all'. Raises ValueError for a name that is none.

    semi_hard, hard: triplets whose negative is farther than the positive by less than the margin, and nearer than it.
    batch_hard: the farthest positive and the nearest negative of each point. batch_easy_hard: the nearest of each.
    multi_similarity: the pairs of that loss's paper, joined to triplets.
    """
    one_of("miner", name, MinerName)
    if name == "all":
        return None
    if name == "batch_hard":
        return miners.BatchHardMiner(distance=distance)
    if name == "batch_easy_hard":
        return miners.BatchEasyHardMiner(distance=distance)
    if name == "multi_similarity":
        return miners.MultiSimilarityMiner(distance=distance)
    kinds = {"semi_hard": "semihard", "hard": "hard"}
    return miners.TripletMarginMiner(margin=margin, type_of_triplets=kinds[name], distance=distance)


def mined_triplets(
    miner: Any, x: Tensor, labels: Tensor, y: Tensor, other_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return anchor, positive and negative (T,) of points x among points y, those that the miner keeps."""
    itself = y is x
    others = {} if itself else {"ref_emb": y, "ref_labels": other_labels}
    found = miner(x.detach(), labels, **others)
    anchor, near, far = convert_to_triplets(found, labels, None if itself else other_labels)
    return anchor, near, far
