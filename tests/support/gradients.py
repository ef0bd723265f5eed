"""Two ways to compute the same thing: equal values and equal gradients of everything that goes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Result = Tensor | Sequence[Tensor]


def random(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value, or to 1e-2 where that cancels to nothing."""
    largest = expected.detach().abs().max() if expected.numel() else torch.zeros(())
    error = (actual.detach() - expected.detach()).abs().max() if expected.numel() else torch.zeros(())
    return (error / largest.clamp_min(1e-2)).item()


def values_and_gradients(
    result: Result, leaves: Sequence[Tensor], scale: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """The result's tensors, and the gradients of the leaves for one random direction of the result."""
    out = [result] if isinstance(result, Tensor) else list(result)
    directions = [scale * random(*x.shape, seed=90 + i).to(x.dtype) for i, x in enumerate(out)]
    tied = [(x, g) for x, g in zip(out, directions, strict=True) if x.requires_grad]  # not a constant
    grads = torch.autograd.grad([x for x, _ in tied], leaves, [g for _, g in tied], allow_unused=True)
    return [x.detach() for x in out], [
        torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)
    ]


def assert_same(
    actual: Callable[[], Result], expected: Callable[[], Result], leaves: Sequence[Tensor], *, tolerance: float
) -> None:
    """Same values and same gradients of the leaves, relative to the largest entry of each tensor."""
    out, grads = values_and_gradients(actual(), leaves)
    plain_out, plain_grads = values_and_gradients(expected(), leaves)
    for number, (a, b) in enumerate(zip(out, plain_out, strict=True)):
        assert difference(a, b) <= tolerance, f"value {number}"
    for leaf, a, b in zip(leaves, grads, plain_grads, strict=True):
        assert difference(a, b) <= tolerance, f"gradient of a leaf of shape {tuple(leaf.shape)}: {a} != {b}"


def finite_or_refused(layer: nn.Module, x: Tensor) -> None:
    """Check that forward and backward are finite, or that a message says how to compute in half precision."""
    leaf = x.clone().requires_grad_()
    try:
        out = layer(leaf)
    except ValueError as error:
        assert "trainer.precision=bf16" in str(error)  # noqa: PT017
        return
    parts = out if isinstance(out, tuple) else (out,)
    assert all(part.isfinite().all() for part in parts)
    sum(part.float().square().mean() for part in parts).backward()
    grads = [leaf.grad, *(p.grad for p in layer.parameters())]
    assert all(grad.isfinite().all() for grad in grads if grad is not None)
