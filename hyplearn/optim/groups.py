"""Parameter groups by the type of a parameter, never by its name: Euclidean weights, points, curvatures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hyplearn.manifolds.curvature import Curvature
from hyplearn.manifolds.interop import Manifold
from hyplearn.optim.options import AT_LEAST_0, check_options
from hyplearn.optim.roles import curvatures_among, is_point, manifold_of

Group = dict[str, Any]


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    manifold_lr_scale: float = 1.0,
    manifold_weight_decay: float | None = None,
    curvature_lr: float = 1e-4,
    curvature_weight_decay: float = 0.0,
    extra_groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Group]:
    """The groups 'euclidean', 'manifold' and 'curvature' of a model, as far as it has such parameters.

    Points learn at lr * manifold_lr_scale and decay by manifold_weight_decay (None: as the weights); curvatures learn
    at curvature_lr and decay by curvature_weight_decay, which draws their raw value, K or log c, to 0. Every trainable
    parameter is in exactly one group. Frozen points whose curvature is learned are in 'manifold' too, because they must
    follow the curvature.

    extra_groups: further groups before these, name -> {'params': parameters of the model, and options such as 'lr'},
    for a backbone or proxies with rates of their own. Curvatures among them stay in 'curvature'; for points in such a
    group the optimizers need nothing else.

    Raises a ValueError naming a parameter that two extra groups claim, that the model does not have, or a learned
    curvature that is not registered in the model and so would be neither moved to a device nor saved.
    """
    # torch.compile wraps a model and puts its mark into the names; a checkpoint must fit with and without it.
    named = {name.replace("_orig_mod.", ""): parameter for name, parameter in model.named_parameters()}
    curvatures = _curvatures(model, named)
    groups = _extra_groups(extra_groups or {}, named, curvatures)
    taken = {parameter for group in groups for parameter in group["params"]}
    kinds: dict[str, dict[str, Tensor]] = {"euclidean": {}, "manifold": {}, "curvature": {}}
    for name, parameter in named.items():
        if parameter not in taken and (parameter.requires_grad or _follows(parameter)):
            kinds[_kind(parameter, curvatures)][name] = parameter
    options: dict[str, Group] = {
        "euclidean": {"lr": lr, "weight_decay": weight_decay},
        "manifold": {
            "lr": lr * manifold_lr_scale,
            "weight_decay": weight_decay if manifold_weight_decay is None else manifold_weight_decay,
        },
        "curvature": {
            "lr": curvature_lr,
            "weight_decay": 0.0,
            "curvatures": [m for m in model.modules() if isinstance(m, Curvature) and m.learned],
        },
    }
    if curvature_weight_decay:
        options["curvature"]["curvature_weight_decay"] = curvature_weight_decay
    groups += [_group(kind, members, options[kind]) for kind, members in kinds.items() if members]
    check_groups(groups, model)
    return groups


def _kind(parameter: Tensor, curvatures: set[Tensor]) -> str:
    if parameter in curvatures:
        return "curvature"
    return "manifold" if is_point(parameter) else "euclidean"


def _follows(parameter: Tensor) -> bool:
    return is_point(parameter) and any(curvature.requires_grad for curvature in manifold_of(parameter).parameters())


def _group(name: str, members: Mapping[str, Tensor], options: Mapping[str, Any]) -> Group:
    group = {"name": name, "params": list(members.values()), "param_names": list(members), **options}
    check_options(group, **{key: AT_LEAST_0 for key in ("lr", "weight_decay") if key in group})
    return group


def _curvatures(model: nn.Module, named: Mapping[str, Tensor]) -> set[Tensor]:
    """All curvatures of the model, with those of geoopt manifolds on which no parameter lies."""
    registered = set(named.values())
    for name, parameter in named.items():
        manifold = manifold_of(parameter) if is_point(parameter) else None
        if manifold is not None and any(c.requires_grad and c not in registered for c in manifold.parameters()):
            raise ValueError(
                f"parameter {name!r} lies on {manifold}, whose learned curvature is not registered in the model; make "
                "the manifold an attribute of the module that owns the parameter"
            )
    owned = {c for module in model.modules() if isinstance(module, Manifold) for c in module.parameters()}
    return curvatures_among(named.values()) | owned


def _extra_groups(
    extra_groups: Mapping[str, Mapping[str, Any]], named: Mapping[str, Tensor], curvatures: set[Tensor]
) -> list[Group]:
    names = {parameter: name for name, parameter in named.items()}
    groups, owner = [], dict[Tensor, str]()
    for group_name, given in extra_groups.items():
        members: dict[str, Tensor] = {}
        for parameter in given["params"]:
            if parameter not in names:
                shape = tuple(parameter.shape)
                raise ValueError(
                    f"extra_groups[{group_name!r}] has a parameter of shape {shape} that is not the model's"
                )
            if owner.setdefault(parameter, group_name) != group_name:
                both = f"{owner[parameter]!r} and {group_name!r}"
                raise ValueError(f"parameter {names[parameter]!r} must be in one group, not in {both}")
            if parameter not in curvatures and (parameter.requires_grad or _follows(parameter)):
                members[names[parameter]] = parameter
        if members:
            groups.append(_group(group_name, members, {key: v for key, v in given.items() if key != "params"}))
    return groups


def check_groups(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> None:
    """Raise a ValueError naming a trainable parameter of the model that is in no group or in more than one."""
    count = Counter(parameter for group in groups for parameter in group["params"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and count[parameter] != 1:
            raise ValueError(
                f"parameter {name!r} must be in exactly one parameter group, not in {count[parameter]}; build the "
                "groups with hyplearn.optim.parameter_groups(model, ...), or freeze it with requires_grad_(False)"
            )


def describe_groups(groups: Sequence[Mapping[str, Any]]) -> str:
    """The table printed at the start of a run: one line per group with its size and rates."""
    header = ("group", "tensors", "values", "lr", "weight decay")
    rows = [
        (
            str(group.get("name", index)),
            f"{len(group['params']):,}",
            f"{sum(parameter.numel() for parameter in group['params']):,}",
            *(f"{group[key]:g}" if key in group else "default" for key in ("lr", "weight_decay")),
        )
        for index, group in enumerate(groups)
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    template = "  ".join([f"{{:<{widths[0]}}}", *(f"{{:>{width}}}" for width in widths[1:])])
    return "\n".join(template.format(*row) for row in (header, *rows))
