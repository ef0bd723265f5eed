"""Embeddings of a batch that does not fit the memory, chunk by chunk, with the gradient of the whole: gradient caching.

A contrastive loss needs all embeddings of a batch at once, but not all their graphs: the first pass computes the
embeddings without graphs, the loss gives its derivative by them, and a second pass over the chunks, with the same
random numbers, carries that derivative on to the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Points = tuple[Tensor, ...]


class ChunkedBatch:
    """One batch between its two passes.

    embed: images (b, C, H, W) to points, one (b, n_i) per space. context: of every forward pass, the autocast of the
    run. `points` are leaves of the graph: after the loss's backward pass, `backward` goes on from their gradients.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Points],
        images: Tensor,
        chunk: int,
        *,
        context: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.embed, self.chunks, self.context = embed, images.split(chunk), context
        self.states: list[RandomState] = []
        found: list[Points] = []
        with torch.no_grad():
            for part in self.chunks:
                self.states.append(RandomState(part.device))
                found.append(embed(part))
        self.points: Points = tuple(torch.cat(parts).requires_grad_() for parts in zip(*found, strict=True))

    def backward(self) -> None:
        """Add the gradients of the weights to their `grad`."""
        start = 0
        for part, state in zip(self.chunks, self.states, strict=True):
            with state.restored(), self.context():
                points = self.embed(part)
            rows = slice(start, start + len(part))
            pairs = [(x, leaf.grad[rows]) for x, leaf in zip(points, self.points, strict=True) if leaf.grad is not None]
            torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])
            start += len(part)


class RandomState:
    """The random streams that layers draw from, on the CPU and on the device of the batch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw once more what followed this state; afterwards the streams go on where they were."""
        with torch.random.fork_rng([self.device] if self.cuda is not None else []):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def check_chunks(model: nn.Module, chunk: int) -> None:
    """Raise ValueError if a layer would see the chunk where it should see the batch."""
    model.train()
    for name, layer in model.named_modules():
        if layer.training and (isinstance(layer, _BatchNorm) or "BatchNorm" in type(layer).__name__):
            raise ValueError(
                f"batch.chunk={chunk}: {name} would normalise by statistics of a chunk instead of the batch; set "
                "batch.chunk=null, choose a backbone without batch norm (any ViT), or, with pretrained weights, "
                "model.freeze_norm=true"
            )
