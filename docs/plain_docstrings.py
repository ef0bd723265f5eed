"""Docstrings as they are written here, plain text with `code` in backticks, to reStructuredText that shows the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

CODE = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"([\\*|_<>:\[\]`])")
ENUMERATION = re.compile(r"\w+[.)] ")
# `dispersion: ...` begins the text of one argument.
ARGUMENT = re.compile(r"[A-Za-z_][\w, `*]*: ")


def restructured(lines: Sequence[str]) -> list[str]:
    """The same text as reStructuredText: nothing but code in backticks and indented blocks is markup."""
    result: list[str] = []
    for filled, block in groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            for paragraph in _paragraphs(list(block)):
                result += [*paragraph, ""]
    return result


def _paragraphs(block: list[str]) -> Iterator[list[str]]:
    """Lines without a blank one between them: an indented block as it stands, else items with what hangs below them."""
    if all(line.startswith("  ") for line in block):
        yield ["::", "", *("    " + line for line in block)]
        return
    hanging = any(line.startswith("  ") for line in block)
    item: list[str] = []
    for line in block:
        if item and hanging and not line.startswith("  ") and ARGUMENT.match(line):
            yield [_inline(item)]
            item = []
        item.append(line.strip())
    yield [_inline(item)]


def _inline(lines: Sequence[str]) -> str:
    parts = CODE.split(" ".join(lines))
    text = "".join(
        f"\\ ``{part}``\\ " if odd else MARKUP.sub(r"\\\1", part)
        for part, odd in zip(parts, _alternating(parts), strict=True)
    ).strip()
    plain = text[:1].isalpha() and not ENUMERATION.match(text)
    return text if plain or text.startswith("\\") else "\\" + text


def _alternating(parts: Sequence[str]) -> Iterator[bool]:
    return (index % 2 == 1 for index in range(len(parts)))
