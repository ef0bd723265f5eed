"""What a run came to: results.json, and the table a user sees at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from hyplearn.runs.directory import RunDirectory

Row = Mapping[str, float]
SMOKE = "SMOKE: small data stand in, no number of this run means anything"


def summarize(rows: Sequence[Row], epoch: int, tests: Mapping[str, float]) -> dict[str, Any]:
    """Metrics of the tested epoch and of the test, curvatures of that epoch, and the run's speed.

    Accuracies and retrieval metrics are in percent. Times are medians over epochs, because the first one warms up.
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
    lines = [("scale", SMOKE)] if results.get("scale") == "smoke" else []
    lines += [("test accuracy", _percent(metrics["test/top1"]))] if "test/top1" in metrics else []
    if "val/top1" in metrics:
        lines += [("validation accuracy", _percent(metrics["val/top1"]))]
    lines += [(_spoken(name), _percent(value)) for name, value in metrics.items() if _is_retrieval(name)]
    selection = results["selection"]
    chosen = "; ".join(text for text in (selection["rule"], selection.get("ties")) if text)
    lines += [("weights of", f"epoch {selection['epoch']} of {results['epochs']} ({chosen})")]
    lines += [(f"curvature c of {name}", f"{c:.4f}") for name, c in results["curvature"].items()]
    if results["seconds_per_epoch"] is not None:
        lines += [("time per epoch", _duration(results["seconds_per_epoch"]))]
        lines += [("training speed", f"{results['images_per_second']:.0f} images/s")]
    width = max(len(name) for name, _ in lines)
    rule = "-" * (width + 2 + max(len(value) for _, value in lines))
    return "\n".join([rule, *(f"{name:<{width}}  {value}" for name, value in lines), rule])


RETRIEVAL = ("recall@", "map@r", "r_precision", "nmi", "ami")


def _is_retrieval(name: str) -> bool:
    """All of the trained metric on the test set; Recall@1 of validation and of the metrics beside it."""
    stage, _, rest = name.partition("/")
    measure = rest.rpartition("/")[2]
    return measure.startswith(RETRIEVAL) and ((stage == "test" and "/" not in rest) or measure == "recall@1")


def _spoken(name: str) -> str:
    """`test/cosine/recall@1` as `test Recall@1, cosine`."""
    stage, _, rest = name.partition("/")
    by, _, measure = rest.rpartition("/")
    title = (
        measure.replace("recall@", "Recall@")
        .replace("map@r", "MAP@R")
        .replace("r_precision", "R-precision")
        .replace("nmi", "NMI")
        .replace("ami", "AMI")
    )
    stage = "validation" if stage == "val" else stage
    return f"{stage} {title}, {by.replace('/', ' ')}" if by else f"{stage} {title}"


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    return f"{minutes} min {rest} s"


def listing(record: RunDirectory, mirrors: Sequence[str]) -> str:
    """The files of a run directory that a user may look for, and how to see the mirrors."""
    return "\n".join([f"written to {record.path}:", *(f"  {name}" for name in record.files()), *mirrors])
