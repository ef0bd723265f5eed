"""Riemannian optimizers that learn curvature, parameter groups and learning rate schedules.

The names below load when they are first asked for: `hyplearn.optim.settings` is read before torch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyplearn.optim.curvature import CurvatureAware
    from hyplearn.optim.groups import check_groups, describe_groups, parameter_groups
    from hyplearn.optim.radam import RiemannianAdam
    from hyplearn.optim.radamw import RiemannianAdamW
    from hyplearn.optim.rsgd import RiemannianSGD
    from hyplearn.optim.schedule import build_schedule
    from hyplearn.optim.support import check_supports

__all__ = [
    "CurvatureAware",
    "RiemannianAdam",
    "RiemannianAdamW",
    "RiemannianSGD",
    "build_schedule",
    "check_groups",
    "check_supports",
    "describe_groups",
    "parameter_groups",
]

_MODULES = {
    "CurvatureAware": "curvature",
    "RiemannianAdam": "radam",
    "RiemannianAdamW": "radamw",
    "RiemannianSGD": "rsgd",
    "build_schedule": "schedule",
    "check_groups": "groups",
    "check_supports": "support",
    "describe_groups": "groups",
    "parameter_groups": "groups",
}


def __getattr__(name: str) -> Any:
    """Load what `__all__` names from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
