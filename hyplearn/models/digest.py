"""A name for the weights of a network, by which embeddings and weights that belong together know each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

SHOWN = 12  # characters of a digest that messages show
WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile and of distributed training


def weights_digest(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict, in hexadecimal: of names, shapes and values in float32.

    So it is the same for a float32 network computed in float64, and for one that torch.compile or a strategy wraps.
    """
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted((_bare(name), tensor) for name, tensor in tensors.items()):
        values = tensor.detach().cpu()
        values = values.to(torch.float32) if values.is_floating_point() else values.to(torch.int64)
        digest.update(f"{name} {tuple(values.shape)} ".encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _bare(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
