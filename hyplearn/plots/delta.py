"""Bars of delta-hyperbolicity beside what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from hyplearn.evaluation.delta import Convention, Hyperbolicity
from hyplearn.plots.style import COLOURS, TEXT, WIDTH, new_figure, plain, save

RULE = 0.2  # below which HCNN makes a stage of HECNN Lorentz (2 delta / diameter)
LINES = ("--", "-.", ":")
FORMULAS = {"relative": "2 δ / diameter", "half": "δ / diameter"}


def draw_delta(path: Path, found: Mapping[str, Hyperbolicity], *, convention: Convention) -> list[Path]:
    """Write a bar for each entry, with the standard deviation of its draws, as PNG and .csv; returns both paths."""
    share = 1.0 if convention == "relative" else 0.5
    figure = new_figure(WIDTH, 2.1 + 0.32 * len(found))
    axes = figure.add_subplot()
    plain(
        axes, title="δ-hyperbolicity: mean and standard deviation of the draws", x=f"{FORMULAS[convention]} (0: a tree)"
    )
    places = range(len(found))
    hyperbolic = [one.metric.curved for one in found.values()]
    bars = axes.barh(
        places,
        [one.mean(convention) for one in found.values()],
        xerr=[one.std(convention) or 0.0 for one in found.values()],
        color=[COLOURS[5] if curved else "#DDDDDD" for curved in hyperbolic],
        hatch=["//" if curved else "" for curved in hyperbolic],
        edgecolor="#333333",
        linewidth=0.8,
        error_kw={"capsize": 3, "elinewidth": 1.2},
    )
    labels = {curved: bar for bar, curved in zip(bars, hyperbolic, strict=True)}
    for curved, bar in labels.items():
        bar.set_label("hyperbolic distance" if curved else "distance of a flat space or sphere")
    axes.set_yticks(places, [_short(name) for name in found], fontsize=TEXT)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.axvline(
        share * RULE, color=COLOURS[1], linewidth=4, alpha=0.35, label=f"HECNN: Lorentz below {share * RULE:g}"
    )
    for line, (name, value) in zip(LINES, printed().items(), strict=True):
        label = f"{name}, printed {share * value:.2f}" if share == 1 else f"{name}, half of the printed {value:.2f}"
        axes.axvline(share * value, color="black", linewidth=1.2, linestyle=line, label=label)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=TEXT)
    return save(figure, path, [_row(name, one, convention) for name, one in found.items()])


def printed() -> dict[str, float]:
    """Return by data set, from the headers of Bdeir's Table 2: 2 delta / diameter, of an encoder that is not stated."""
    content = yaml.safe_load((files("hyplearn.papers") / "published_results.yaml").read_text())
    found: dict[str, float] = content["protocols"]["A2"]["delta_rel"]
    return found


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"…{name[-39:]}"


def _row(name: str, one: Hyperbolicity, convention: Convention) -> dict[str, object]:
    return {
        "part": name,
        "delta_rel": one.mean(convention),
        "std": one.std(convention),
        "convention": convention,
        "suggested_c": one.suggested_c,
        "metric": str(one.metric),
        "draws": len(one.draws),
        "samples": one.samples,
        "total": one.total,
    }
