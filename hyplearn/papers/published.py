"""The numbers that the two papers print, as data: see published_results.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml

PAPERS = {"A": "bdeir", "B": "yue"}
FILE = "published_results.yaml"


@dataclass(frozen=True)
class Entry:
    """What one row of a table prints for one data set. Metrics in percent unless their name says otherwise.

    paper: bdeir or yue. row: from 1, inside the printed table. embed_dim: numbers of an embedding.
    metrics: by printed name, R@1 or accuracy; None where the paper prints a dash. std: where one is printed.
    """

    paper: str
    table: int
    row: int
    block: str | None
    method: str
    backbone: str | None
    embed_dim: int | None
    dataset: str
    metrics: Mapping[str, float | None]
    std: Mapping[str, float] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    ours: bool = False
    note: str | None = None

    @property
    def blank(self) -> bool:
        """Whether the paper prints no number here."""
        return all(value is None for value in self.metrics.values())


@cache
def document() -> Mapping[str, Any]:
    """The whole of published_results.yaml: entries, protocols, claims, and what the figures show."""
    text = resources.files("hyplearn.papers").joinpath(FILE).read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@cache
def entries() -> tuple[Entry, ...]:
    """Every printed row of every table, one entry for each data set, in the order of the papers."""
    return tuple(_entry(record) for record in document()["entries"])


def _entry(record: Mapping[str, Any]) -> Entry:
    return Entry(
        paper=PAPERS[record["paper"]],
        table=record["table"],
        row=record["row"],
        block=record.get("block"),
        method=record["method"],
        backbone=record.get("backbone"),
        embed_dim=record.get("embed_dim"),
        dataset=record["dataset"],
        metrics=record["metrics"],
        std=record.get("std") or {},
        marks=tuple(record.get("marks") or ()),
        ours=record.get("ours", False),
        note=record.get("note"),
    )
