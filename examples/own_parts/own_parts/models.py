"""A classifier and a retrieval model, for every manifold that has the verbs of those of hyplearn."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from hyplearn.manifolds import CurvedManifold, Manifold
from hyplearn.manifolds.base import Family
from hyplearn.models.base import ClassificationModel, EmbeddingModel
from hyplearn.nn.space import Space


def convolutions(in_channels: int, width: int) -> nn.Sequential:
    """Make two convolutions and a mean over places: images (B, C, H, W) to features (B, 2 width)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class OwnNet(ClassificationModel):
    """Gives as logits minus the distances of an embedding to one learned prototype for each class.

    in_channels, num_classes and manifold are supplied by hyplearn, because the constructor names them. The prototypes
    are tangent vectors at the origin, so that any optimizer can train them.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, manifold: Family, width: int = 16, size: int = 8, tau: float = 0.2
    ) -> None:
        super().__init__()
        self.tau = tau
        self.features = nn.Sequential(convolutions(in_channels, width), nn.Linear(2 * width, size))
        self.manifold = manifold.decoder()
        self.prototypes = nn.Parameter(torch.randn(num_classes, size) / size**0.5)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to points (B, size)."""
        return self._lifted(self.features(images))

    def head(self, embedding: Tensor) -> Tensor:
        """Points (B, size) to logits (B, num_classes)."""
        return cast(Tensor, -self.manifold.cdist(embedding, self._lifted(self.prototypes)) / self.tau)

    def _lifted(self, u: Tensor) -> Tensor:
        """Tangent vectors at the origin (..., size) to points, kept where float32 can tell them apart."""
        return cast(Tensor, self.manifold.expmap0(self.manifold.rescale0(u)))

    def manifolds(self) -> dict[str, Manifold]:
        """Return the manifold of the embedding, for the readings of curvature and radius; a flat one has none."""
        return {"decoder": self.manifold} if isinstance(self.manifold, CurvedManifold) else {}


class OwnEmbedder(EmbeddingModel):
    """Embeds images as points of one space. backbone and neck have learning rates of their own by `optim.scales`."""

    def __init__(self, *, in_channels: int, manifold: Family, width: int = 16, size: int = 8) -> None:
        super().__init__()
        self.backbone = convolutions(in_channels, width)
        self.neck = nn.Linear(2 * width, size)
        self.spaces = nn.ModuleList([Space(manifold.embedding("own"))])
        self.sizes = (size,)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, 2 width)."""
        features: Tensor = self.backbone(images)
        return features

    def points(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features (B, 2 width) to points (B, size) of the one space, in float32 whatever autocast says."""
        space = cast(Space, self.spaces[0])
        with torch.autocast(features.device.type, enabled=False):
            return (space.manifold.expmap0(space.manifold.rescale0(self.neck(features.float()))),)

    def rate_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of both parts by name."""
        return {"backbone": list(self.backbone.parameters()), "neck": list(self.neck.parameters())}
