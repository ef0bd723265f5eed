"""Files that are whole or absent: a reader, or a run killed in the middle of writing, never meets half of one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a neighbour of `path`, force it to the disk, and only then give it the name `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, path)
    if os.name == "posix":  # the new name is on the disk only once the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda stream: stream.write(text.encode()))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON: numbers that are not finite become the strings nan, inf and -inf."""
    write_text(path, json.dumps(_strict(content), indent=2, allow_nan=False, default=str) + "\n")


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Plain containers as YAML: one line per value, lists in brackets, strings in quotes."""
    write_text(path, "".join(_yaml_lines(content, "")))


def _yaml_lines(content: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_yaml_key(key)}:\n"
            yield from _yaml_lines(value, indent + "  ")
        else:
            yield f"{indent}{_yaml_key(key)}: {_yaml_value(value)}\n"


def _yaml_key(key: str) -> str:
    """Bare where YAML 1.1 takes it for a string."""
    bare = key.isidentifier() and key.lower() not in {"on", "off", "yes", "no", "y", "n", "true", "false", "null"}
    return key if bare else json.dumps(key)


def _yaml_value(value: Any) -> str:
    if isinstance(value, float):  # YAML 1.1 takes 1e-05 for a string
        text = repr(value)
        if not math.isfinite(value):
            return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[text]
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml_key(key)}: {_yaml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml_value, value)) + "]"
    return json.dumps(value)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, (list, tuple)) else value
