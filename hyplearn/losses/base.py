"""What losses of embeddings have in common: how they are called, and in which precision they compute."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hyplearn.geometry import tf32
from hyplearn.manifolds import Manifold
from hyplearn.manifolds.precision import promote
from hyplearn.nn.space import Space

Loss = TypeVar("Loss", bound="EmbeddingLoss")


class EmbeddingLoss(nn.Module, ABC):
    """Called as loss(points, labels, spaces, generator=...); subclasses give `compute`.

    In a loop of one's own the spaces are given once, `loss.within(model)`, and the call is loss(points, labels).

    points: one tensor (B, n_i) per space, of the whole batch, those of all processes in rank order. labels: (B,) int64.
    spaces: of the model, see `hyplearn.nn.space.Space`. generator: of the run's own, a function of (seed, epoch,
    batch), the same in every process; a loss that draws random numbers takes them from nowhere else.

    A subclass with proxies takes `spaces`, `sizes` (n_i of each space) or `num_classes` as keyword arguments of its
    constructor; the program supplies those it names.
    """

    expects = "embeddings"
    least_per_class = 1  # images of each class that a batch must hold
    equal_per_class = False  # every class of a batch must have the same number of images
    within_spaces: tuple[Space, ...] | None = None  # a tuple: the spaces are the model's, no modules of the loss

    def within(self: Loss, spaces: Manifold | nn.Module | Sequence[Space | Manifold]) -> Loss:
        """Remember the spaces of later calls, and return the loss itself.

        spaces: a model with spaces, a manifold, a `Space`, or a list of these. They stay the model's: a curvature that
        is learned is neither moved, stored nor optimized with the loss.
        """
        self.within_spaces = spaces_of(spaces)
        return self

    def forward(
        self,
        points: Tensor | Sequence[Tensor],
        labels: Tensor,
        spaces: Sequence[Space] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss, (), in float32 or better whatever autocast and TF32 say.

        points: one tensor alone stands for the points of a single space. Without `spaces` those of `within` count, and
        torch's own generator. Raises ValueError for points that are not rows, and for labels that are not one whole
        number for each row.
        """
        if isinstance(points, Tensor):
            points = (points,)
        if spaces is None:
            spaces, generator = self._remembered(len(points)), generator or torch.default_generator
        check_points(points)
        labels = checked_labels(labels, len(points[0]))
        with torch.autocast(labels.device.type, enabled=False), tf32.refused():
            return self.compute([promote(x) for x in points], labels, spaces, generator=generator)

    def _remembered(self, count: int) -> tuple[Space, ...]:
        if self.within_spaces is None:
            raise ValueError(
                f"{type(self).__name__} does not know where its points lie: call within(model) or within(manifold) "
                "once, or give the spaces at each call"
            )
        if len(self.within_spaces) != count:
            raise ValueError(f"points of {count} spaces, but the loss was told of {len(self.within_spaces)}")
        return self.within_spaces

    @abstractmethod
    def compute(
        self, points: Sequence[Tensor], labels: Tensor, spaces: Sequence[Space], *, generator: torch.Generator | None
    ) -> Tensor:
        """The loss of points in float32 or better, outside autocast."""

    def check(self, spaces: Sequence[Space], *, batch_size: int) -> None:
        """Raise ValueError if the loss cannot be computed for a model of `spaces` and `batch_size` points at once.

        Called before training, so that nobody waits for data to learn of it.
        """

    def proxies(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Parameters with rates of their own by the name of their group: class_proxies, hierarchical_proxies."""
        return {}

    def scalars(self) -> Sequence[nn.Parameter]:
        """Learned temperatures and the like: they do not decay, and have a rate of their own."""
        return ()

    @property
    def sees_directions(self) -> bool:
        """Whether the loss compares the directions of points alone, so that their cosine is the metric it trains."""
        return False

    def distance_weights(self, spaces: Sequence[Space]) -> tuple[float, ...]:
        """Return what multiplies the distances of each space in the metric that this loss trains.

        Only the ratios count.
        """
        return tuple(space.weight.item() for space in spaces)


def spaces_of(given: Manifold | nn.Module | Sequence[Space | Manifold]) -> tuple[Space, ...]:
    """Return spaces as losses take them: of a model, of one manifold or space, or of a list of these.

    Raises ValueError for anything else.
    """
    if isinstance(given, (Space, Manifold)):
        given = (given,)
    if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
        given = getattr(given, "spaces", ())
    spaces = tuple(one if isinstance(one, Space) else _space(one) for one in given)
    if not spaces:
        raise ValueError("no spaces: give a model of embeddings, a manifold, or a list of manifolds")
    return spaces


def _space(given: object) -> Space:
    if not isinstance(given, Manifold):
        raise ValueError(f"{type(given).__name__} is neither a manifold nor a hyplearn.nn.space.Space")
    return Space(given)


def check_points(points: Sequence[Tensor]) -> None:
    """Raise ValueError unless every space has rows (B, n), B > 0 the same for all. Reads no value."""
    shapes = [tuple(x.shape) for x in points]
    if not shapes or any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"points of shapes {shapes} must be one tensor (B, n) for each space, with the same B")


def checked_labels(labels: Tensor, count: int) -> Tensor:
    """Return labels as int64 (B,). Raises ValueError unless they are `count` > 0 whole numbers. Reads no value."""
    if count == 0:
        raise ValueError("a batch without images has no loss: leave it out")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.shape != (count,):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} must be class numbers of shape ({count},), one "
            "integer for each row of the batch: flatten a column, take argmax(1) of one-hot rows"
        )
    return labels.long()


class LogitsLoss(Protocol):
    """What a loss of a classifier is: any nn.Module that is called as loss(logits, labels).

    logits: (B, num_classes) in float32 or better. labels: (B,) int64. Returns (), the mean over the batch. Its
    constructor may take num_classes as a keyword argument; the program supplies it.
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor: ...


def input_of(kind: object) -> Literal["logits", "embeddings"]:
    """Return what a loss, or a class of losses, is computed from: what it says in `expects`, else logits."""
    expects: Literal["logits", "embeddings"] = getattr(kind, "expects", "logits")
    return expects


def build_part(part: Callable[..., EmbeddingLoss], **known: object) -> EmbeddingLoss:
    """A loss that is part of another one, or of a run: `part` called with those of `known` that its signature names.

    part: a class or a partial (`_partial_: true` in a configuration); what a partial holds already stays as it is.
    """
    held = part.keywords if isinstance(part, functools.partial) else {}
    names = [name for name in inspect.signature(part).parameters if name in known and name not in held]
    return part(**{name: known[name] for name in names})
