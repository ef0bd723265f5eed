"""Small untrained networks for images of 8 to 63 pixels, on which the papers' backbones have nothing to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from hyplearn.nn.choices import positive


class Small(Protocol):
    """What builds such a network; it ends like a timm model, in `forward_features` and `forward_head`."""

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
        """Raises ValueError for images that are no multiple of the patch."""
        patch = self.patch or (2 if image_size < 16 else 4 if image_size < 48 else 8)
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


@dataclass(frozen=True)
class SmallResNet:
    """A ResNet of four stages of `blocks` basic blocks, with `width` to 8 `width` channels and a stem of stride 1."""

    width: int = 32
    blocks: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "blocks"):
            positive(f"small.{name}", getattr(self, name))

    def build(self, *, in_channels: int, image_size: int, drop_path_rate: float) -> nn.Module:
        """image_size: any, at least 8 to leave the last stage one position."""
        network: Any = ResNet(
            BasicBlock,  # type: ignore[arg-type]  # timm means the type
            layers=(self.blocks,) * 4,
            in_chans=in_channels,
            num_classes=0,
            channels=tuple(self.width << stage for stage in range(4)),
            drop_path_rate=drop_path_rate,
        )
        # timm's stem is for 224 pixels: a 7 x 7 convolution and a pool, both of stride 2
        network.conv1 = nn.Conv2d(in_channels, network.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
        made: nn.Module = network
        return made
