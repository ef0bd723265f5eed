"""Feature maps (B, n, H, W) in channels_last seen as rows of points (B, H*W, n), and back, without copies."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """(B, n, H, W) -> (B, H*W, n); a view if x is in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def feature_map(points: Tensor, like: Tensor) -> Tensor:
    """(B, H*W, n) -> (B, n, H, W) with the height and width of `like`, a channels_last view."""
    batch, _, height, width = like.shape
    return points.view(batch, height, width, -1).permute(0, 3, 1, 2)
