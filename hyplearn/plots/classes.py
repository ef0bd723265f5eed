"""Which classes a picture shows by colour and marker, and which it counts as others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from hyplearn.plots.style import COLOURS, MARKERS

SHOWN = 8  # more colours than these are not told apart
CLASS_COLOURS = (*COLOURS[:6], "#882255", "#000000")
CLASS_MARKERS = (*MARKERS, "*")
OTHERS = "#BBBBBB"


class Group(NamedTuple):
    """Images that look alike in a picture. rows: (N,) boolean."""

    name: str
    rows: Tensor
    colour: str
    marker: str


def groups(labels: Tensor, names: Sequence[str] | None) -> list[Group]:
    """The eight most frequent classes of labels (N,), in the order of their labels, and last the others if there are.

    names: by label; None for the labels themselves.
    """
    found, counts = labels.unique(return_counts=True)
    frequent = found[counts.argsort(descending=True, stable=True)[:SHOWN]].sort().values
    shown = [
        Group(_short(str(label) if names is None else names[label]), labels == label, colour, marker)
        for label, colour, marker in zip(frequent.tolist(), CLASS_COLOURS, CLASS_MARKERS, strict=False)
    ]
    if len(found) > SHOWN:
        others = sum((group.rows for group in shown), start=labels != labels) == 0
        shown.append(Group(f"{len(found) - SHOWN} other classes", others, OTHERS, "."))
    return shown


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
