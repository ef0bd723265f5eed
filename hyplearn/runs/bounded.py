"""Reading of text that somebody else may have written: what it would become is bounded before it takes memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hyplearn.runs.regular import open_regular

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
BYTES = 64 * 2**20  # of a file that is read at once: a manifest of 100,000 class names has 3 MiB
NODES, DEPTH = 20_000, 50  # of a YAML text, aliases counted as often as they are used; a run has 300 and 6
LONGEST = 100_000  # characters of one text in YAML


def read_text(path: Path, *, limit: int = BYTES, errors: str = "strict") -> str:
    """Return the text of a file of at most `limit` bytes. Raises ValueError for a longer one, OSError for no file.

    errors: what becomes of bytes that are no UTF-8, as Python names it.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return content.decode("utf-8", errors)


def load_yaml(text: str) -> Any:
    """Return what a YAML text holds. Raises ValueError and YAMLError; see `check_yaml`."""
    check_yaml(text)
    return yaml.load(text, Loader=LOADER)


def check_yaml(text: str) -> None:
    """Raise ValueError for a YAML text that nests too deep, or that its aliases blow up. Nothing is made of it."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # the anchor of each, and the nodes before it
    count = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} stands inside of what it repeats, or for nothing")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            _check_scalar(event.value)
            sizes |= {} if event.anchor is None else {event.anchor: 1}
        elif isinstance(event, yaml.CollectionStartEvent):
            count += 1
            open_nodes.append((event.anchor, count - 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes |= {} if anchor is None else {anchor: count - before}
        _check_size(count, len(open_nodes))


def _check_scalar(text: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(f"one of its texts has more than {LONGEST:,} characters")


def _check_size(count: int, depth: int) -> None:
    if count > NODES:
        raise ValueError(f"with its aliases it comes to more than {NODES:,} values")
    if depth > DEPTH:
        raise ValueError(f"its brackets nest deeper than {DEPTH} levels")
