"""The shape of what a run writes: content of another one is not a run's, however well it parses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBERS_AS_TEXT = ("nan", "inf", "-inf")  # as `runs.atomic` writes them
_RESULTS = {"metrics": dict, "selection": dict, "dataset": dict, "curvature": dict, "status": str}


def results(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of results.json. Raises ValueError for a value of another kind."""
    for key, kind in _RESULTS.items():
        _require(content.get(key), kind, key)
    for name, value in (content.get("metrics") or {}).items():
        if not _number(value):
            raise ValueError(f"metrics.{name} is {value!r}, no number")
    selection = content.get("selection")
    if selection is not None:
        _require(selection.get("checkpoint"), str, "selection.checkpoint")
    return dict(content)


def manifest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of manifest.json. Raises ValueError for a value of another kind."""
    sessions = content.get("sessions")
    _require(sessions, list, "sessions")
    for index, session in enumerate(sessions or []):
        _require(session, dict, f"sessions.{index}")
        for key in ("source", "versions"):
            _require((session or {}).get(key), dict, f"sessions.{index}.{key}")
    return dict(content)


def config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.yaml. Raises ValueError for a group or a seed of another kind."""
    for key in ("dataset", "trainer", "optim", "loss", "choices"):
        _require(content.get(key), dict, key)
    seed = content.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}, no whole number")
    return dict(content)


def _require(value: Any, kind: type, key: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{key} is {str(value)[:40]!r}, and should be a {kind.__name__}")


def _number(value: Any) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain or value is None or value in NUMBERS_AS_TEXT
