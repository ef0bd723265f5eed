"""Weights of timm models: from a local file, or pretrained ones through the Hugging Face hub."""

from __future__ import annotations

import inspect
import pickle
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hyplearn.models.convert import WRAPPERS
from hyplearn.runs.archives import check_arrays, check_stored
from hyplearn.runs.regular import NoRegularFile, check_regular, open_regular

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher")  # where checkpoint files keep weights
PREFIXES = ("model.", "backbone.", "encoder.", "network.")  # of wrappers, outermost first
CLASSIFIERS = ("head.", "head_dist.", "fc.", "classifier.", "AuxLogits.")  # beside those that timm's config names
FROM_FILES = {"bn_inception": "bn_inception-52deb4733.pth"}  # networks of ours, and the published file of each
CONNECT_TIMEOUT = 5.0  # seconds; the hub's own client tries for 45 before it gives up


def load_weights(network: nn.Module, path: str) -> None:
    """Copy the weights of a file into `network`, a timm model without classifier, in place.

    path: .safetensors, .pth, .pt or .bin (a state dict, or a checkpoint that holds one), or .npz of the JAX ViTs. Names
    may have the prefixes of DataParallel, torch.compile or a wrapper; timm's own filter for the architecture is applied
    (other names, position embeddings of another image size). Pickles are read as weights only, never as code.
    Raises ValueError for no such file, one that holds no weights, names or shapes that do not fit, and NaN.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise ValueError(f"weights={path}: there is no such file")
    try:
        check_regular(file)
    except NoRegularFile as error:
        raise ValueError(f"weights={path} cannot be read: {error.strerror}") from error
    if file.suffix not in SUFFIXES:
        raise ValueError(f"weights={path} must end in one of {', '.join(SUFFIXES)}")
    if file.suffix == ".npz":
        _load_npz(network, file)
        return
    state = _filtered(network, _cleaned(_read(file), network))
    _check_fit(network, state, path)
    _check_finite(state, path)
    network.load_state_dict(state)


def _load_npz(network: nn.Module, file: Path) -> None:
    load = getattr(network, "load_pretrained", None)
    if load is None:
        raise ValueError(f"weights={file}: {type(network).__name__} has no .npz format; convert it to .safetensors")
    try:
        with open_regular(file) as stream:
            check_arrays(stream)
        load(str(file))
        with np.load(file) as content:  # timm leaves blocks that the model has not unread
            further = [name for name in content.files if f"/encoderblock_{len(network.blocks)}/" in name]  # type: ignore[arg-type]
    except (KeyError, OSError, RuntimeError, ValueError, BadZipFile) as error:
        raise ValueError(f"weights={file} is no .npz of this architecture: {error}") from error
    _check_finite(network.state_dict(), str(file))
    if further:
        raise ValueError(f"weights={file} has also {further[0]}: it belongs to a deeper architecture")


def _read(file: Path) -> Mapping[str, Any]:
    try:
        check_stored(file)
    except ValueError as error:
        raise ValueError(f"weights={file} cannot be read as weights: {error}") from error
    try:
        content = (
            load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        )  # torch's message on a pickle that runs code says so
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"weights={file} cannot be read as weights: {str(error).splitlines()[0]}") from error
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights={file} holds no state dict, but a {type(content).__name__}")
    return content


def _cleaned(state: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """Without the prefixes of wrappers; where some names have one, the others are of the wrapper and left out."""
    named = {WRAPPERS.sub("", name): value for name, value in state.items() if isinstance(value, Tensor)}
    own = tuple(network.state_dict())
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in named) and not any(name.startswith(prefix) for name in own):
            named = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    return named


def _filtered(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict as timm's module of the architecture rewrites it, without the classifier."""
    rewrite: Callable[..., dict[str, Tensor]] | None = getattr(
        sys.modules[type(network).__module__], "checkpoint_filter_fn", None
    )
    if rewrite is not None:
        state = rewrite(state, network) if len(inspect.signature(rewrite).parameters) > 1 else rewrite(state)
    named = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = (*CLASSIFIERS, *(f"{name}." for name in ([named] if isinstance(named, str) else named)))
    own = network.state_dict()
    return {name: value for name, value in state.items() if name in own or not name.startswith(prefixes)}


def _check_finite(state: Mapping[str, Tensor], path: str) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"weights={path}: {name} holds numbers that are not finite: take another file")


def _check_fit(network: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    own = network.state_dict()
    for what, names in (("lacks", own.keys() - state.keys()), ("has also", state.keys() - own.keys())):
        names = {name for name in names if not name.endswith("num_batches_tracked")}
        if names:
            shown = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise ValueError(f"weights={path} {what} {shown}: it belongs to another architecture than model.backbone")
    for name, value in state.items():
        if own[name].shape != value.shape:
            raise ValueError(
                f"weights={path}: {name} of shape {tuple(value.shape)} must be {tuple(own[name].shape)} "
                "for this model.backbone, image size and number of channels"
            )


def check_reachable(name: str) -> None:
    """Raise ValueError, within seconds, if the pretrained weights of `name` are neither in the cache nor to be had."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if name in FROM_FILES:
        raise ValueError(
            f"pretrained=true: the weights of {name} have no address to load them from. Set model.weights to the file "
            f"{FROM_FILES[name]}, or model.pretrained=false"
        )
    if config is None or not (config.hf_hub_id or config.url or config.file):
        raise ValueError(f"pretrained=true: timm has no weights for {name}; set model.pretrained=false")
    if config.hf_hub_id and not _cached(config) and not constants.HF_HUB_OFFLINE:
        try:
            urllib.request.urlopen(constants.ENDPOINT, timeout=CONNECT_TIMEOUT).close()
        except urllib.error.HTTPError:
            pass  # an answer of any kind: the hub is there
        except OSError as error:
            raise unavailable(name, error) from error


def in_cache(name: str) -> bool:
    """Whether the pretrained weights of a timm model lie in the hub's cache on this machine."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return config is not None and bool(config.hf_hub_id) and _cached(config)


def _cached(config: Any) -> bool:
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    repository, _, revision = config.hf_hub_id.partition("@")
    return any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files)


def unavailable(name: str, error: Exception) -> ValueError:
    """The error for pretrained weights that cannot be downloaded."""
    return ValueError(
        f"pretrained=true: the weights of {name} are not in the cache and cannot be downloaded "
        f"({str(error).splitlines()[0]}). Set model.weights=<local file>, or model.pretrained=false to start from "
        "random weights"
    )


DOWNLOAD_ERRORS = (OSError, HfHubHTTPError)
