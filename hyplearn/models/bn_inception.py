"""BN-Inception (Ioffe & Szegedy, 2015) as trained in Caffe: the network of most rows of the metric-learning tables.

Ten blocks of four branches; every convolution has a bias and is followed by batch norm and ReLU. Blocks 3c and 4e have
a stride of 2, no 1 x 1 branch, and pass what they are given through a max pooling. Names of parameters are those of the
published state dict (`bn_inception-52deb4733.pth`), which `model.weights=` reads.

That file wants BGR pixels from 0 to 255 less (104, 117, 128). Its first convolution is turned to RGB when it is read,
so that the data config says the same to every transform: mean (128, 117, 104)/255 and standard deviation 1/255.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

FIRST = "conv1_7x7_s2.weight"
CLASSIFIER = "last_linear"
FEATURES = 1024


class Widths(NamedTuple):
    """Channels of a block's branches. direct: the 1 x 1 branch, 0 for none. pool: 0 passes the pooled input through."""

    direct: int
    reduce: int
    single: int
    reduce_double: int
    double: int
    pool: int

    @property
    def halves(self) -> bool:
        """Whether the block has a stride of 2."""
        return self.direct == 0

    def out(self, channels: int) -> int:
        """Channels of the block's output."""
        return self.direct + self.single + self.double + (self.pool or channels)


BLOCKS = {
    "inception_3a": Widths(64, 64, 64, 64, 96, 32),
    "inception_3b": Widths(64, 64, 96, 64, 96, 64),
    "inception_3c": Widths(0, 128, 160, 64, 96, 0),
    "inception_4a": Widths(224, 64, 96, 96, 128, 128),
    "inception_4b": Widths(192, 96, 128, 96, 128, 128),
    "inception_4c": Widths(160, 128, 160, 128, 160, 128),
    "inception_4d": Widths(96, 128, 192, 160, 192, 128),
    "inception_4e": Widths(0, 128, 192, 192, 256, 0),
    "inception_5a": Widths(352, 192, 320, 160, 224, 128),
    "inception_5b": Widths(352, 192, 320, 192, 224, 128),
}


class BNInception(nn.Module):
    """Images (B, C, H, W) to features (B, 1024, H/32, W/32), and as timm's models to pooled features (B, 1024).

    in_chans: channels of the images. num_classes: 0, the classifier is left out. bn_momentum: of the running
    statistics; 0.1 as published, the code of Proxy-Anchor has 0.9.
    """

    num_features = FEATURES

    def __init__(self, *, in_chans: int = 3, num_classes: int = 0, bn_momentum: float = 0.1) -> None:
        super().__init__()
        if num_classes:
            raise ValueError(f"num_classes={num_classes} must be 0: hyplearn's heads stand in the classifier's place")
        self.bn_momentum = bn_momentum
        self._add("conv1_7x7_s2", in_chans, 64, kernel=7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, kernel=1)
        self._add("conv2_3x3", 64, 192, kernel=3)
        channels = 192
        for name, widths in BLOCKS.items():
            self._add_block(name, channels, widths)
            channels = widths.out(channels)

    def _add(self, name: str, channels: int, width: int, *, kernel: int, stride: int = 1) -> None:
        """A convolution and its batch norm, by the published names."""
        self.add_module(name, nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(width, momentum=self.bn_momentum))

    def _add_block(self, name: str, channels: int, widths: Widths) -> None:
        stride = 2 if widths.halves else 1
        if widths.direct:
            self._add(f"{name}_1x1", channels, widths.direct, kernel=1)
        self._add(f"{name}_3x3_reduce", channels, widths.reduce, kernel=1)
        self._add(f"{name}_3x3", widths.reduce, widths.single, kernel=3, stride=stride)
        self._add(f"{name}_double_3x3_reduce", channels, widths.reduce_double, kernel=1)
        self._add(f"{name}_double_3x3_1", widths.reduce_double, widths.double, kernel=3)
        self._add(f"{name}_double_3x3_2", widths.double, widths.double, kernel=3, stride=stride)
        if widths.pool:
            self._add(f"{name}_pool_proj", channels, widths.pool, kernel=1)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map."""
        x = _halved(self._unit("conv1_7x7_s2", x))
        x = _halved(self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", x)))
        for name, widths in BLOCKS.items():
            x = self._block(name, widths, x)
        return x

    def _unit(self, name: str, x: Tensor) -> Tensor:
        return torch.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def _block(self, name: str, widths: Widths, x: Tensor) -> Tensor:
        branches = [self._unit(f"{name}_1x1", x)] if widths.direct else []
        branches.append(self._unit(f"{name}_3x3", self._unit(f"{name}_3x3_reduce", x)))
        double = self._unit(f"{name}_double_3x3_1", self._unit(f"{name}_double_3x3_reduce", x))
        branches.append(self._unit(f"{name}_double_3x3_2", double))
        if widths.pool:
            pooled = _largest(x) if name == "inception_5b" else _averaged(x)
            branches.append(self._unit(f"{name}_pool_proj", pooled))
        else:
            branches.append(_halved(x))
        return torch.cat(branches, dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The mean over the positions."""
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _halved(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)


def _largest(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 1, padding=1)


def _averaged(x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(x, 3, 1, padding=1)


def checkpoint_filter_fn(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The published state dict as this network has it; one that the network wrote itself stays as it is.

    Batch-norm tensors of shape (1, n) become (n), and the first convolution reads RGB in place of BGR. The classifier,
    which this network never has, tells the published file from its own.
    """
    published = f"{CLASSIFIER}.weight" in state or any(
        name.endswith("_bn.weight") and value.dim() == 2 for name, value in state.items()
    )
    if not published:
        return state
    found = {
        name: value.squeeze(0) if "_bn." in name and value.dim() == 2 else value
        for name, value in state.items()
        if not name.startswith(f"{CLASSIFIER}.")
    }
    if FIRST in found:
        found[FIRST] = found[FIRST].flip(1)
    return found


default_cfgs = generate_default_cfgs(
    {
        "bn_inception": {
            "url": "",  # no address that hyplearn may fetch from by itself: the file is named by model.weights
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (128 / 255, 117 / 255, 104 / 255),
            "std": (1 / 255,) * 3,
            "first_conv": "conv1_7x7_s2",
            "classifier": CLASSIFIER,
        }
    }
)


@register_model
def bn_inception(pretrained: bool = False, **options: Any) -> BNInception:
    """Build the network, as timm's models are built. Its weights come from a file, see `models.weights`."""
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(name, None)
    if pretrained:
        raise ValueError("pretrained=true: bn_inception is read from a file, set model.weights to it")
    return BNInception(**options)
