"""Weights of the published HCNN (`kschwethelm/HyperbolicCV`) for `hcnn_original_r18` and `hcnn_original_r50`.

| published, time first | here, space coordinates |
|---|---|
| `linearized_kernel.weight.weight` (1 + n', 1 + kh kw n) | without row 0: column 0 `weight_time`, the rest `weight` |
| `linearized_kernel.weight.bias` (1 + n') | `bias` (n'); output 0 is a time that the layer throws away |
| `beta` (1 + n), a point | `beta` (n) |
| `running_mean` (1 + n), tangent at the origin | `running_mean` (n) |
| `running_var` (1), a mean distance | `running_dispersion` () |
| `gamma` (1); `a` (classes), `z` (classes, n) | `gamma` (); the same |
| `manifold.k`, which is K = 1/c, at every module | the curvatures of the encoder's and the decoder's manifold |

The columns of a patch run over its positions row by row, and over the channels within a position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hyplearn.manifolds import CurvedManifold
from hyplearn.models.resnet import ResNet

WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # DataParallel and torch.compile
_STEM = re.compile(r"encoder\.conv1\.conv\.([01])\.(.+)")
_BLOCK = re.compile(r"encoder\.conv([2-5])_x\.(\d+)\.conv\.(\d+)\.(.+)")
_SHORTCUT = re.compile(r"encoder\.conv([2-5])_x\.(\d+)\.shortcut\.([01])\.(.+)")
_CURVATURE = re.compile(r"(?:.+\.)?(?:enc_|dec_)?manifold\.k")


def load_published_hcnn(model: ResNet, checkpoint: Mapping[str, object]) -> None:
    """Copy a published state dict, or a checkpoint file's dict that has it under `model`, into `model`, in place.

    The model must be all Lorentz with original convolutions, HCNN's batch norm and no rescaling, as the config
    `hcnn_original_r18` builds it; then its logits are the published model's. Curvatures are taken over as well.
    Raises ValueError for a state dict that is not an HCNN's, or one of another size, depth or number of classes.
    """
    published = checkpoint.get("model", checkpoint)
    if not isinstance(published, Mapping):
        raise ValueError(f"checkpoint['model'] is a {type(published).__name__}, but must be a state dict")
    state = {WRAPPERS.sub("", name): value for name, value in published.items()}
    target = {name: value for name, value in model.state_dict().items() if _is_weight(name)}
    converted = dict(_converted(state, target))
    _check_names(converted.keys() ^ target.keys(), converted)
    curvatures = _curvatures(model, state)
    model.load_state_dict(converted, strict=False)
    with torch.no_grad():
        for manifold, k in curvatures:
            manifold.curvature.raw.copy_(k if manifold.curvature.parametrization == "K" else -k.log())


def _is_weight(name: str) -> bool:
    return not name.endswith((".curvature.raw", ".num_batches_tracked"))


def _converted(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if _CURVATURE.fullmatch(name) or name.endswith(".linearized_kernel.scale"):  # a constant that no layer reads
            continue
        module, leaf = _place(name)
        if leaf == "linearized_kernel.weight.weight":
            yield f"{module}.weight_time", value[1:, 0]
            yield f"{module}.weight", _kernel(name, value, target.get(f"{module}.weight"))
        else:
            yield _plain(module, leaf, value)


def _place(name: str) -> tuple[str, str]:
    """Our module and the published rest of a name, for example `stages.0.1.unit2.norm`, `beta`."""
    if match := _STEM.fullmatch(name):
        return f"stem.{('conv', 'norm')[int(match[1])]}", match[2]
    if match := _SHORTCUT.fullmatch(name):
        return f"stages.{int(match[1]) - 2}.{match[2]}.shortcut.{('conv', 'norm')[int(match[3])]}", match[4]
    if (match := _BLOCK.fullmatch(name)) and int(match[3]) % 3 < 2:  # each third module is an activation
        unit, part = divmod(int(match[3]), 3)
        return f"stages.{int(match[1]) - 2}.{match[2]}.unit{unit + 1}.{('conv', 'norm')[part]}", match[4]
    if name in ("decoder.a", "decoder.z"):
        return "head", name.removeprefix("decoder.")
    raise ValueError(f"{name!r} is no name of a published HCNN state dict (HyperbolicCV, Lorentz encoder and decoder)")


def _plain(module: str, leaf: str, value: Tensor) -> tuple[str, Tensor]:
    if leaf in ("beta", "running_mean"):
        return f"{module}.{leaf}", value[1:]
    if leaf == "linearized_kernel.weight.bias":
        return f"{module}.bias", value[1:]
    if leaf in ("gamma", "running_var"):
        return f"{module}.{'gamma' if leaf == 'gamma' else 'running_dispersion'}", value.reshape(())
    return f"{module}.{leaf}", value


def _kernel(name: str, value: Tensor, target: Tensor | None) -> Tensor:
    """(1 + n', 1 + kh kw n) to (n', n, kh, kw), the shape of ours."""
    if target is None:
        raise ValueError(f"{name!r} has no counterpart: the model has another depth")
    outputs, channels, height, width = target.shape
    if value.shape != (1 + outputs, 1 + channels * height * width):
        raise ValueError(
            f"{name!r} of shape {tuple(value.shape)} must be {(1 + outputs, 1 + channels * height * width)} "
            f"for this model's {channels} to {outputs} channels; build the model with the published width and depth"
        )
    return value[1:, 1:].reshape(outputs, height, width, channels).permute(0, 3, 1, 2)


def _check_names(different: set[str], converted: Mapping[str, Tensor]) -> None:
    for name in sorted(different):
        if name in converted:
            raise ValueError(f"the state dict has {name!r}, the model has not: it is another architecture or depth")
        raise ValueError(f"the state dict has nothing for {name!r} of the model: it is another architecture or depth")


def _curvatures(model: ResNet, state: Mapping[str, Tensor]) -> list[tuple[CurvedManifold, Tensor]]:
    """The encoder's and the decoder's manifold with their published K."""
    named, pairs = model.manifolds(), []
    for role in ("encoder", "decoder"):
        k = state.get(f"{role[:3]}_manifold.k")
        manifold = named.get(role)
        if k is None or not isinstance(manifold, CurvedManifold):
            raise ValueError(f"need {role[:3]}_manifold.k in the state dict and a model with one {role} manifold")
        low, high = manifold.curvature.bounds
        if not low <= 1 / k.item() <= high:
            raise ValueError(f"published c = 1/{k.item()} of the {role} must lie in bounds=[{low}, {high}]; widen them")
        pairs.append((manifold, k))
    return pairs
