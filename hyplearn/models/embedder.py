"""The model of metric learning: a backbone and a neck; an embedding is a point in each of its spaces."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from hyplearn.manifolds import CurvatureParameter, CurvedManifold, Manifold, Manifolds
from hyplearn.models.backbone import FrozenPart, Pool, build_backbone
from hyplearn.models.base import Output
from hyplearn.models.necks import Head, LorentzNeck, Neck
from hyplearn.models.small import SmallConvNet, SmallViT


class Embedder(nn.Module):
    """Images (B, in_channels, H, W) to one tensor of points (B, n_i) per space, in float32 or better.

    backbone: name of a timm model with the tag of its weights, or None for the network of `small` alone. head: the
    neck. manifold: the `Manifolds` that the neck takes its curvature from; None for a Euclidean model. The rest: see
    `build_backbone` and `Backbone`.
    """

    gives: ClassVar[Output] = "embeddings"

    def __init__(
        self,
        *,
        backbone: str | None,
        head: Neck | LorentzNeck,
        in_channels: int,
        image_size: int,
        manifold: Manifolds | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        small: SmallViT | SmallConvNet | None = None,
        pool: Pool = "default",
        frozen: FrozenPart | int = "none",
        freeze_norm: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(
            backbone,
            pretrained=pretrained,
            weights=weights,
            in_channels=in_channels,
            image_size=image_size,
            small=small,
            pool=pool,
            frozen=frozen,
            freeze_norm=freeze_norm,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.head: Head = head.build(self.backbone.feature_size, manifold)

    @property
    def spaces(self) -> nn.ModuleList:
        """One `hyplearn.nn.space.Space` per branch."""
        return self.head.spaces

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the embedding: n of each space."""
        return self.head.sizes

    @property
    def feature_size(self) -> int:
        """Number of features D that the backbone gives."""
        return self.backbone.feature_size

    def features(self, images: Tensor) -> Tensor:
        """Return what the backbone gives, (B, D), in float32 or in autocast's precision."""
        features: Tensor = self.backbone(images)
        return features

    def points(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return what the neck makes of features (B, D): one tensor (B, n_i) of points per space."""
        points: tuple[Tensor, ...] = self.head(features)
        return points

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.points(self.features(images))

    def manifolds(self) -> dict[str, Manifold]:
        """The curved manifolds by name: lorentz, poincare, poincare2, ..."""
        named = self.head.named_spaces()
        return {name: space.manifold for name, space in named.items() if isinstance(space.manifold, CurvedManifold)}

    def rate_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by part, `backbone` and `neck`; curvatures have a rate of their own."""
        parts: dict[str, nn.Module] = {"backbone": self.backbone, "neck": self.head}
        return {name: [p for p in part.parameters() if _has_part_rate(p)] for name, part in parts.items()}


def _has_part_rate(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and not isinstance(parameter, CurvatureParameter)
