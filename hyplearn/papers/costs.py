"""bdeir Table 4: what `hyplearn bench table4` measured beside what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyplearn.papers.render import Block, Paragraph, Table

MEASURES = {"memory_gb": "memory, GB", "seconds_per_epoch": "seconds an epoch"}


def costs(bench: Mapping[str, Any]) -> list[Block]:
    """The rows, then the ratios: only these can be compared between machines."""
    known = ("file", "models", "batch", "width", "precision", "device", "data", "rounds", "extrapolation")
    said = ", ".join(f"{name.replace('_', ' ')} {bench[name]}" for name in known if bench.get(name) is not None)
    rows = tuple((row["method"], *_pairs(row)) for row in bench["rows"])
    ratios = tuple((f"{ratio['of']} to {ratio['to']}", *_pairs(ratio)) for ratio in bench.get("ratios", ()))
    header = tuple(f"{name}, {source}" for name in MEASURES.values() for source in ("printed", "measured"))
    blocks: list[Block] = [
        Paragraph(f"Costs measured by hyplearn bench table4 in turns: {said}."),
        Table(("method", *header), rows),
    ]
    if not ratios:
        return blocks
    why = "Ratios of time are medians of ratios within a round: on a busy machine they differ from those of the rows."
    return [*blocks, Paragraph(why), Table(("ratio", *header), ratios)]


def _pairs(record: Mapping[str, Any]) -> list[str]:
    printed = record.get("printed") or {}
    return [_text(source.get(name)) for name in MEASURES for source in (printed, record)]


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def rows(bench: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return one record for each row, for CSV."""
    return [
        {"file": bench["file"], "device": bench.get("device"), "method": row["method"]}
        | {f"{source}{name}": record.get(name) for name in MEASURES for source, record in _sources(row)}
        for row in bench["rows"]
    ]


def _sources(row: Mapping[str, Any]) -> tuple[tuple[str, Mapping[str, Any]], tuple[str, Mapping[str, Any]]]:
    return ("printed_", row.get("printed") or {}), ("", row)
