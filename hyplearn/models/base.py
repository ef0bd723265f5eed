"""What a model is to training and to everything after it, and base classes for models of one's own.

A classifier may be any `nn.Module` that gives logits: what it does not have, `as_classifier` stands in for. A retrieval
model derives from `EmbeddingModel`, or says `gives = "embeddings"` and has the same methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, cast

from torch import Tensor, nn

from hyplearn.manifolds import CurvatureParameter, CurvedManifold, Manifold
from hyplearn.nn.space import Space, space_names

Output: TypeAlias = Literal["logits", "embeddings"]


class Model(Protocol):
    """What every model is asked for, beside being an nn.Module."""

    def manifolds(self) -> dict[str, Manifold]:
        """The manifolds by name, that of the embedding last; none for a Euclidean model."""
        ...


class Classifier(Model, Protocol):
    """What a classifier is asked for: head(embed(images)) is forward(images)."""

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to the points or features (B, n) that the head sees."""
        ...

    def head(self, embedding: Tensor) -> Tensor:
        """Points or features to logits (B, num_classes)."""
        ...


class Retriever(Model, Protocol):
    """What a retrieval model is asked for: points(features(images)) is forward(images).

    spaces: one `hyplearn.nn.space.Space` per part of the embedding. sizes: n_i, the numbers of a point of each.
    """

    @property
    def spaces(self) -> nn.ModuleList: ...

    @property
    def sizes(self) -> tuple[int, ...]: ...

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to the backbone's output (B, D)."""
        ...

    def points(self, features: Tensor) -> tuple[Tensor, ...]:
        """The backbone's output to the embedding: points (B, n_i), one tensor per space."""
        ...

    def rate_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the part of the model, such as backbone and neck, without curvatures."""
        ...


class ClassificationModel(nn.Module, ABC):
    """Base of a classifier that tells more than its logits; subclasses give `embed` and `head`.

    `head` is a method or a module. With them the radii of embeddings are recorded, and `hyplearn embed` and `plot
    embeddings` show what the head sees. The constructor may take in_channels, num_classes, image_size and manifold as
    keyword arguments: the program supplies those it names. manifold: a family, see `hyplearn.manifolds.base.Family`.
    """

    gives: ClassVar[Output] = "logits"
    head: Any

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to the points or features (B, n) that the head sees."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(images))
        return logits

    def manifolds(self) -> dict[str, Manifold]:
        """Return the manifolds by name, that of the embedding last. A Euclidean model has none."""
        return {}


class EmbeddingModel(nn.Module, ABC):
    """Base of a retrieval model; subclasses set `spaces` and `sizes` and give `features` and `points`.

    The constructor is supplied as that of a `ClassificationModel`.
    """

    gives: ClassVar[Output] = "embeddings"
    spaces: nn.ModuleList
    sizes: tuple[int, ...]

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, D), which are compared by their cosine beside the embedding."""

    @abstractmethod
    def points(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features (B, D) to points (B, n_i), one tensor per space, in float32 or better."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.points(self.features(images))

    def manifolds(self) -> dict[str, Manifold]:
        """Return the curved manifolds of the spaces by the names of these: lorentz, poincare, poincare2, ..."""
        spaces = cast("list[Space]", list(self.spaces))
        named = zip(space_names(spaces), spaces, strict=True)
        return {name: space.manifold for name, space in named if isinstance(space.manifold, CurvedManifold)}

    def rate_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by part; all are the backbone's unless a subclass says otherwise."""
        return {"backbone": [p for p in self.parameters() if p.requires_grad and not isinstance(p, CurvatureParameter)]}


def output_of(kind: Any) -> Output:
    """Return what a class of models gives a loss: what it says in `gives`, else logits."""
    return cast(Output, getattr(kind, "gives", "logits"))


def embeds(model: nn.Module) -> bool:
    """Tell whether a classifier has a method `embed`; a layer of that name says nothing."""
    return callable(getattr(type(model), "embed", None))


def as_model(model: nn.Module) -> Model:
    """Return the model itself, or what stands in for one without `manifolds`."""
    return cast(Model, model) if callable(getattr(type(model), "manifolds", None)) else _Plain(model)


def as_classifier(model: nn.Module) -> Classifier:
    """Return the classifier itself, or what stands in for one without `embed`: its embedding is its logits."""
    return cast(Classifier, model) if embeds(model) else _Plain(model)


class _Plain:
    """A classifier that has a forward pass and nothing else. No module: its parameters keep their names."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def manifolds(self) -> dict[str, Manifold]:
        return {}

    def embed(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def head(self, embedding: Tensor) -> Tensor:
        return embedding
