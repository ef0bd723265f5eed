"""What a run came to: results.json, and the table a user sees at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Row = Mapping[str, float]
RESULTS = "results.json"


def summarize(rows: Sequence[Row], epoch: int, tests: Mapping[str, float]) -> dict[str, Any]:
    """Metrics of the tested epoch and of the test, curvatures of that epoch, and the run's speed.

    Accuracies are in percent. Times are medians over epochs, because the first one warms up.
    """
    chosen = next((row for row in rows if row["epoch"] == epoch), {})
    metrics = {name: value for name, value in chosen.items() if name.startswith(("train/", "val/"))}
    curvature = {
        name.removeprefix("curvature/"): value
        for name, value in chosen.items()
        if name.startswith("curvature/") and not name.endswith("_at_bound")
    }
    return {
        "metrics": metrics | dict(tests),
        "curvature": curvature,
        "epochs": int(rows[-1]["epoch"]) if rows else 0,
        "steps": int(rows[-1]["step"]) if rows else 0,
        "seconds": sum(row["seconds"] for row in rows),
        "seconds_per_epoch": _median(rows, "seconds"),
        "images_per_second": _median(rows, "images_per_second"),
    }


def _median(rows: Sequence[Row], name: str) -> float | None:
    return median(row[name] for row in rows) if rows else None


def table(results: Mapping[str, Any]) -> str:
    """The results in lines of name and value."""
    metrics = results["metrics"]
    lines = [("test accuracy", _percent(metrics["test/top1"]))] if "test/top1" in metrics else []
    if "val/top1" in metrics:
        lines += [("validation accuracy", _percent(metrics["val/top1"]))]
    selection = results["selection"]
    lines += [("weights of", f"epoch {selection['epoch']} of {results['epochs']} ({selection['rule']})")]
    lines += [(f"curvature c of {name}", f"{c:.4f}") for name, c in results["curvature"].items()]
    if results["seconds_per_epoch"] is not None:
        lines += [("time per epoch", _duration(results["seconds_per_epoch"]))]
        lines += [("training speed", f"{results['images_per_second']:.0f} images/s")]
    width = max(len(name) for name, _ in lines)
    rule = "-" * (width + 2 + max(len(value) for _, value in lines))
    return "\n".join([rule, *(f"{name:<{width}}  {value}" for name, value in lines), rule])


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    return f"{minutes} min {rest} s"


def listing(folder: Path, mirrors: Sequence[str]) -> str:
    """The files of a run directory that a user may look for, and how to see the mirrors."""
    names = ["config.yaml", "manifest.json", "metrics.csv", RESULTS, "nonfinite.json", "train.log"]
    found = [name for name in names if (folder / name).is_file()]
    found += sorted(str(path.relative_to(folder)) for path in folder.glob("checkpoints/*.ckpt"))
    found += sorted(str(path.relative_to(folder)) for path in folder.glob("figures/*.png"))
    return "\n".join([f"written to {folder}:", *(f"  {name}" for name in found), *mirrors])
