"""Models and losses by name, for programs of one's own: what `import hyplearn` offers."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from hyplearn.config.compose import Composed, compose
from hyplearn.config.explain import quoted
from hyplearn.config.folders import config_dir, groups
from hyplearn.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import nn

    from hyplearn.losses.base import EmbeddingLoss
    from hyplearn.manifolds import Manifold

PHOTOGRAPH, SMALL = 224, 32  # pixels of the side that a timm backbone and a ResNet for small images are made for


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of models that match a shell pattern, sorted. Imports no torch."""
    return _matching("model", pattern)


def list_losses(pattern: str = "*") -> list[str]:
    """Return the names of losses that match a shell pattern, sorted. Imports no torch."""
    return _matching("loss", pattern)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
    pretrained: bool = False,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> nn.Module:
    """Return a new model of `list_models()`, with manifolds of its own.

    num_classes: of a classifier; an embedding model needs none. image_size: 224 for a model with a timm backbone, 32
    for others. pretrained: whether a backbone fetches its weights. settings: arguments of the model, as `width=16`.
    overrides: of anything else, as on the command line: "manifold.c=0.5", "backbone=r50", "model.head.size=64".
    Raises ConfigError.
    """
    composed = compose_model(name, [*overrides, *_typed(settings)])
    config = composed.config
    if not pretrained:
        off = {"pretrained": False, "weights": None}
        given = {key: value for key, value in off.items() if key in config["model"]}
        config = {**config, "model": {**config["model"], **given}}
    return build(config, name, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def compose_model(name: str, overrides: Sequence[str]) -> Composed:
    """Return the checked configuration of a model. Raises ConfigError for a name that is none."""
    _check_name("model", name)
    return compose([f"model={name}", *overrides])


def build(
    config: dict[str, Any], name: str, *, num_classes: int | None, in_channels: int, image_size: int | None
) -> nn.Module:
    """Return the model of a configuration. Raises ConfigError for a classifier of an unknown number of classes."""
    from hyplearn.config.build import model
    from hyplearn.config.typecheck import target

    wanted = inspect.signature(target(config["model"], "model")).parameters
    if num_classes is None and "num_classes" in wanted:
        raise ConfigError(
            f"create_model({name!r}): num_classes is missing, the number of classes: give num_classes=10."
        )
    if image_size is None:
        image_size = PHOTOGRAPH if "backbone" in config["model"] else SMALL
    classes = 1 if num_classes is None else num_classes
    known = {"in_channels": in_channels, "image_size": image_size, "num_classes": classes}
    for key, value in known.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"create_model({name!r}): {key}={value!r} must be a whole number >= 1.")
    return model(config, known)


def create_loss(
    name: str,
    space: Manifold | nn.Module | Sequence[Any] | None = None,
    *,
    sizes: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    **settings: Any,
) -> nn.Module:
    """Return a new loss of `list_losses()`; one of embeddings is then called as loss(embeddings, labels).

    space: the model whose embeddings it sees, a manifold, or a list of manifolds. sizes: numbers of a point in each,
    num_classes: number of classes; only losses with proxies need the two, and a model knows its sizes. settings:
    arguments of the loss. Raises ConfigError.
    """
    from hyplearn.config.build import make, named
    from hyplearn.losses.base import EmbeddingLoss, spaces_of

    _check_name("loss", name)
    node = compose([f"loss={name}", *_typed(settings, "loss")]).config["loss"]
    offered: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    spaces = None if space is None else spaces_of(space)
    if spaces is not None:
        offered["spaces"] = list(spaces)
        sizes = getattr(space, "sizes", None) if sizes is None else sizes
    if sizes is not None:
        offered["sizes"] = [sizes] if isinstance(sizes, int) else list(sizes)
    made = make(node, "loss", **named(node, "loss", offered))
    if isinstance(made, EmbeddingLoss) and spaces is not None:
        made.within(spaces)
    return cast("EmbeddingLoss", made)


def _names(group: str) -> list[str]:
    return sorted(name for name in groups([config_dir()])[group] if "/" not in name)


def _matching(group: str, pattern: str) -> list[str]:
    return fnmatch.filter(_names(group), pattern)


def _check_name(group: str, name: str) -> None:
    names = _names(group)
    if name not in names:
        listing = "list_models" if group == "model" else "list_losses"
        close = nearest(name, names)
        raise ConfigError(f"{name!r} is no {group}.{close} hyplearn.{listing}() names them.")


def _typed(settings: dict[str, Any], group: str = "model") -> list[str]:
    """Return settings as overrides of a group."""
    return [f"{group}.{key}={_as_override(value)}" for key, value in settings.items()]


def _as_override(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Iterable):
        return f"[{','.join(_as_override(item) for item in value)}]"
    return repr(value)
