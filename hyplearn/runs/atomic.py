"""Files that are whole or absent: a reader, or a run killed in the middle of writing, never meets half of one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import yaml


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a neighbour of `path`, force it to the disk, and only then give it the name `path`.

    Raises OSError with the path where the system refuses; nothing is left of the neighbour then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        _fill(unfinished, write)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)  # its part of a full disk is needed for what is said of the run
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.replace(unfinished, path)
    if os.name == "posix":  # the new name is on the disk only once the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _fill(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        stream = _Remembering(file)
        try:
            write(cast(BinaryIO, stream))
        except RuntimeError:
            if stream.refused is not None:  # torch makes an error of its own of it, which does not say what it was
                raise stream.refused from None
            raise
        file.flush()
        os.fsync(file.fileno())


class _Remembering:
    """A stream that remembers what the system refused."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.refused = file, cast("OSError | None", None)

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.refused = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def write_text(path: Path, text: str) -> None:
    # Names of files need not be text, and a page that names one is written all the same.
    write_whole(path, lambda stream: stream.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON: numbers that are not finite become the strings nan, inf and -inf."""
    write_text(path, json.dumps(_strict(content), indent=2, allow_nan=False, default=str) + "\n")


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain containers as YAML: one line per value, lists in brackets, strings in quotes."""
    write_text(path, yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # PyYAML has no types
    """Mappings as blocks, lists on one line, and quotes around every text but keys, so that no text is a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True  # a list that stands in two places is written twice

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style=not mapping)
        for key, _ in node.value:
            key.style = None  # without quotes, where YAML 1.1 takes it for a text all the same
        return node


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
for _kind in (list, tuple):
    _Dumper.add_representer(
        _kind, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
    )


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, (list, tuple)) else value
