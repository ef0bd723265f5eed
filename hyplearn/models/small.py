"""Small untrained networks for images of 8 to 63 pixels, on which the papers' backbones have nothing to see."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hyplearn.nn.checks import positive


class Small(Protocol):
    """Settings that build a small network; it ends like a timm model, in `forward_features` and `forward_head`."""

    def build(self, *, in_channels: int, image_size: int, drop_path_rate: float) -> nn.Module: ...


@dataclass(frozen=True)
class SmallViT:
    """A ViT of `depth` blocks on class and patch tokens of `width` numbers.

    patch: pixels of a patch's side; None for 2 below 16 pixels, 4 below 48, else 8: about 16 to 64 patches.
    position_std: > 0, of the initial position embeddings. With timm's 0.02 the class token starts as the mean of the
        patches, blind to where they are, and after training tells classes that it never saw far worse apart
        (digits 5-9 after 112 steps on 0-4: Recall@1 0.54 with 0.02, 0.89 with 1).
    """

    width: int = 96
    depth: int = 4
    heads: int = 3
    patch: int | None = None
    position_std: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads"):
            positive(f"small.{name}", getattr(self, name))
        if self.width % self.heads:
            raise ValueError(f"small.width={self.width} must be a multiple of small.heads={self.heads}")
        if self.patch is not None:
            positive("small.patch", self.patch)
        if not self.position_std > 0:
            raise ValueError(f"small.position_std={self.position_std} must be > 0")

    def build(self, *, in_channels: int, image_size: int, drop_path_rate: float) -> nn.Module:
        """Build the network. Raises ValueError for images that are no multiple of the patch."""
        patch = self.patch or _patch_for(image_size)
        if image_size % patch:
            raise ValueError(
                f"image_size={image_size} must be a multiple of the patch of {patch} pixels: set dataset.image_size, "
                "or model.small.patch"
            )
        network: Any = VisionTransformer(
            img_size=image_size,
            patch_size=patch,
            in_chans=in_channels,
            num_classes=0,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            drop_path_rate=drop_path_rate,
        )
        nn.init.normal_(network.pos_embed, std=self.position_std)
        made: nn.Module = network
        return made


def _patch_for(image_size: int) -> int:
    """Return the side of a patch: at least 4 x 4 patches, from images of 8 pixels on."""
    if image_size < 16:
        return 2
    return 4 if image_size < 48 else 8


@dataclass(frozen=True)
class SmallConvNet:
    """Three 3 x 3 convolutions of width, 2 width and 4 width channels with batch norm, read out over all positions.

    The sum of average and maximum over positions does not depend on where in the image something is, and early layers
    without strides see every pixel: untrained, its features of unseen digits are almost as good as their pixels, where
    a ResNet of this size starts blind (its blocks start as zero and its shortcuts skip pixels).
    """

    width: int = 32

    def __post_init__(self) -> None:
        positive("small.width", self.width)

    def build(self, *, in_channels: int, image_size: int, drop_path_rate: float) -> nn.Module:
        """Maximum pools of 2 behind the first layer from 24 pixels on, and behind the second from 12 on."""
        if drop_path_rate:
            raise ValueError(f"drop_path_rate={drop_path_rate}: SmallConvNet has no paths; set model.drop_path_rate=0")
        return ConvNet(in_channels, self.width, pools=(image_size >= 24, image_size >= 12))


class ConvNet(nn.Module):
    """The network that `SmallConvNet` describes, with the ends of a timm model."""

    def __init__(self, in_channels: int, width: int, *, pools: tuple[bool, bool]) -> None:
        super().__init__()
        sizes = (in_channels, width, 2 * width, 4 * width)
        self.num_features = self.head_hidden_size = sizes[-1]
        parts: list[nn.Module] = []
        for number, (into, out) in enumerate(pairwise(sizes)):
            parts += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            parts += [nn.MaxPool2d(2)] if number < 2 and pools[number] else []
        self.layers = nn.Sequential(*parts)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to a feature map."""
        features: Tensor = self.layers(images)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """Average plus maximum over the positions. There is no classifier, whatever `pre_logits` says."""
        positions = x.flatten(2)
        return positions.mean(2) + positions.amax(2)
