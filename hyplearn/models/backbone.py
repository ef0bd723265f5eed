"""Backbones: any timm model, read out before its classifier, and what stands in for it on small images."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable
from typing import Any, Literal

import timm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hyplearn.errors import one_of
from hyplearn.models import bn_inception as _registers_itself  # noqa: F401 - beside timm's networks
from hyplearn.models.small import Small
from hyplearn.models.weights import DOWNLOAD_ERRORS, check_reachable, load_weights, unavailable
from hyplearn.nn.checks import positive
from hyplearn.nn.layout import channels_last

log = logging.getLogger(__name__)

Pool = Literal["default", "class_token", "reference", "avg", "max", "avg_max"]
FrozenPart = Literal["none", "patch_embed"]
SMALL_IMAGE = 64  # pixels; below, 16 x 16 patches or a stride of 32 leave next to nothing


class Backbone(nn.Module):
    """Images (B, C, H, W) to features (B, feature_size): a timm model without classifier, and how it is read out.

    pool: `default`, what the model itself does (a ViT's class token, the mean of class and distillation token of
        DeiT, the average of a ResNet); `class_token`; `reference`, of a distilled DeiT the class token in training and
        the mean of both tokens in evaluation (what HIER and Hyp-ViT did, by timm 0.4.12); `avg`, `max` or their sum
        `avg_max` (ResNet-50 of HIER) over the patches or positions.
    frozen: `none`, `patch_embed`, or a number n for the patch embedding and the first n blocks.
    freeze_norm: batch norm keeps its running statistics for good, whatever `train()` says; its weights stay trainable.
    drop_rate: dropout of the features.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        pool: Pool = "default",
        frozen: FrozenPart | int = "none",
        freeze_norm: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        one_of("pool", pool, Pool)
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate={drop_rate} must be in [0, 1)")
        self.network, self.pool, self.freeze_norm = network, pool, freeze_norm
        self._check_pool()
        size: int = getattr(network, "head_hidden_size", None) if pool == "default" else None  # type: ignore[assignment]
        self.feature_size: int = size or network.num_features  # type: ignore[assignment]
        self.dropout = nn.Dropout(drop_rate)
        if freeze_norm and not any(isinstance(part, _BatchNorm) for part in network.modules()):
            raise ValueError(f"freeze_norm=true: {self.kind} has no batch norm; set model.freeze_norm=false")
        _freeze(network, frozen)
        self.train()

    @property
    def kind(self) -> str:
        """The class of the timm model, for messages."""
        return type(self.network).__name__

    def _check_pool(self) -> None:
        if self.pool == "reference" and not hasattr(self.network, "dist_token"):
            raise ValueError(f"pool=reference needs a distilled DeiT, not {self.kind}: set model.pool=default")
        if self.pool == "class_token" and getattr(self.network, "cls_token", None) is None:
            raise ValueError(f"pool=class_token: {self.kind} has no class token; set model.pool=default")

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode as of any module, but leave frozen batch norm in evaluation."""
        super().train(mode)
        if self.freeze_norm:
            for part in self.network.modules():
                if isinstance(part, _BatchNorm):
                    part.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.network.forward_features(channels_last(images))  # type: ignore[operator]
        features: Tensor = self.dropout(self._pooled(x))
        return features

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "class_token" or (self.pool == "reference" and self.training):
            return x[:, 0]
        if self.pool in _OVER_POSITIONS:
            return _OVER_POSITIONS[self.pool](_positions(self.network, x))
        pooled: Tensor = self.network.forward_head(x, pre_logits=True)  # type: ignore[operator]
        return pooled

    def extra_repr(self) -> str:
        return f"pool={self.pool}, feature_size={self.feature_size}, freeze_norm={self.freeze_norm}"


_OVER_POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: x.mean(1),
    "max": lambda x: x.amax(1),
    "avg_max": lambda x: x.mean(1) + x.amax(1),
}


def _positions(network: nn.Module, x: Tensor) -> Tensor:
    """Patches without class token, or positions of a feature map: (B, P, D)."""
    if x.dim() == 3:
        return x[:, getattr(network, "num_prefix_tokens", 0) :]
    return (x if getattr(network, "output_fmt", "NCHW") == "NHWC" else x.movedim(1, -1)).flatten(1, 2)


def _freeze(network: nn.Module, frozen: FrozenPart | int) -> None:
    if isinstance(frozen, bool) or not isinstance(frozen, int):
        one_of("frozen", frozen, FrozenPart)
    if frozen == "none":
        return
    parts: list[Any] = [getattr(network, "patch_embed", None), *getattr(network, "blocks", ())]
    if parts[0] is None:
        raise ValueError(f"frozen={frozen}: {type(network).__name__} has no patch embedding; set model.frozen=none")
    blocks = frozen if isinstance(frozen, int) else 0
    if not 0 <= blocks < len(parts):
        raise ValueError(f"frozen={blocks} must be in [0, {len(parts) - 1}], the number of blocks of the model")
    for part in parts[: 1 + blocks]:
        part.requires_grad_(False)


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is one model of timm with one set of weights: architecture.tag.

    A bare name means whatever timm lists first, today `a1_in1k` for resnet50, which is another recipe than the papers'.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"backbone={name} is no model of timm{hint} (timm.list_models() names them all)")
    tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag not in tags if tag else len(tags) > 1:
        what = "is no tag of this model" if tag else "has several sets of weights"
        offered = ", ".join(f"{architecture}.{other}" for other in tags) or f"{architecture} alone"
        raise ValueError(f"backbone={name} {what}: choose one of {offered}")


WITHOUT_WEIGHTS: dict[str, Any] = {
    "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear", "crop_pct": 0.875, "input_size": (3, 224, 224)
}  # fmt: skip


def data_config(name: str | None) -> dict[str, Any]:
    """Return how images have to look for the weights of a timm model: mean, std, interpolation, crop_pct, input_size.

    input_size: (channels, height, width). Nothing is built or downloaded. None, a network without weights: pixels from
    -1 to 1. Raises ValueError as `check_name`.
    """
    if name is None:
        return WITHOUT_WEIGHTS
    check_name(name)
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is None:
        raise ValueError(f"backbone={name}: timm has no weights for it, so there is no way that images have to look")
    return {key: getattr(config, key) for key in ("mean", "std", "interpolation", "crop_pct", "input_size")}


def build_backbone(
    name: str | None,
    *,
    pretrained: bool,
    weights: str | None,
    in_channels: int,
    image_size: int,
    small: Small | None,
    pool: Pool = "default",
    frozen: FrozenPart | int = "none",
    freeze_norm: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Backbone:
    """The backbone of a model for images (B, in_channels, image_size, image_size).

    name: timm's, with the tag of the weights; None for the small network whatever the size. pretrained: with the
    weights of that tag. weights: a local file in their place, see `load_weights`. small: the network that stands in,
    untrained, for images under 64 pixels; None refuses them. pool, frozen, freeze_norm, drop_rate: see `Backbone`;
    drop_path_rate: stochastic depth. Pretrained kernels for 3 channels are adapted to others as timm does it.
    Raises ValueError for what timm does not have, images that do not fit, and weights that cannot be had.
    """
    positive("in_channels", in_channels)
    if name is not None:
        check_name(name)
    if name is None:
        if pretrained or frozen != "none":
            raise ValueError(
                f"backbone=null is a new network, for which pretrained={pretrained} and frozen={frozen} mean nothing: "
                "set model.pretrained=false model.frozen=none, or name a backbone of timm"
            )
        network = _small_network(name, small, in_channels, image_size, drop_path_rate)
    elif image_size < SMALL_IMAGE:
        network = _small_network(name, small, in_channels, image_size, drop_path_rate)
        pool, frozen, freeze_norm = ("default" if pool == "reference" else pool), "none", False
    else:
        network = _network(name, pretrained and weights is None, in_channels, image_size, drop_path_rate)
    if weights is not None:
        load_weights(network, weights)
    return Backbone(network, pool=pool, frozen=frozen, freeze_norm=freeze_norm, drop_rate=drop_rate)


def _small_network(
    name: str | None, small: Small | None, in_channels: int, image_size: int, drop_path_rate: float
) -> nn.Module:
    if small is None and name is None:
        raise ValueError("backbone=null and small=null: one of them has to name a network")
    if small is None:
        raise ValueError(
            f"image_size={image_size} is too small for backbone={name}, which needs {SMALL_IMAGE} pixels or more: set "
            "dataset.image_size=224, or model.small to a network for small images"
        )
    if name is not None:
        _warn_of_stand_in(image_size, name, str(small))
    return small.build(in_channels=in_channels, image_size=image_size, drop_path_rate=drop_path_rate)


@functools.cache  # a search checks several runs
def _warn_of_stand_in(image_size: int, name: str, small: str) -> None:
    log.warning(
        "images of %d pixels are too small for %s: an untrained %s stands in, without pretrained weights and with "
        "nothing frozen",
        image_size,
        name,
        small,
    )


def _network(name: str, pretrained: bool, in_channels: int, image_size: int, drop_path_rate: float) -> nn.Module:
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    if config is not None and config.fixed_input_size and config.input_size[-1] != image_size:
        options["img_size"] = image_size
    if pretrained:
        check_reachable(name)
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **options
        )
    except DOWNLOAD_ERRORS as error:
        raise unavailable(name, error) from error
    except TypeError as error:  # of the constructor of a model without such a part
        if not options:
            raise
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ValueError(f"backbone={name} does not take {given}: {error}") from error
    _check_patches(network, image_size, name)
    return network


def _check_patches(network: nn.Module, image_size: int, name: str) -> None:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch is not None and image_size % max(patch):
        raise ValueError(
            f"image_size={image_size} must be a multiple of the {max(patch)} pixels of a patch of backbone={name}; "
            "set dataset.image_size"
        )
