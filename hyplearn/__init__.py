"""Hyperbolic networks for images, with curvature that is learned.

The names of `__all__` load what they need when they are first used: `import hyplearn` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyplearn.hub import HubModel, load
    from hyplearn.library import create_loss, create_model, list_losses, list_models

__version__ = "0.1.0"

__all__ = ["HubModel", "__version__", "create_loss", "create_model", "list_losses", "list_models", "load"]

_MODULES = {
    "HubModel": "hub",
    "create_loss": "library",
    "create_model": "library",
    "list_losses": "library",
    "list_models": "library",
    "load": "hub",
}


def __getattr__(name: str) -> Any:
    """Load what `__all__` names from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
