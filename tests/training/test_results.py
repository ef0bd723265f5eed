from __future__ import annotations

from pathlib import Path
from typing import Any

from hyplearn.runs.directory import RunDirectory
from hyplearn.training.results import listing, summarize, table

ROWS = [
    {"epoch": e, "step": 10 * e, "train/loss": 1 / e, "val/top1": 90.0 + e, "curvature/encoder": 0.5 * e,
     "curvature/encoder_at_bound": 0.0, "seconds": s, "images_per_second": 100.0 * e, "lr/euclidean": 0.1}
    for e, s in ((1, 60.0), (2, 20.0), (3, 22.0))
]  # fmt: skip


def results(**changes: Any) -> dict[str, Any]:
    selection = {"rule": "best val/top1", "epoch": 2, "checkpoint": "checkpoints/best.ckpt"}
    return {"selection": selection, **summarize(ROWS, 2, {"test/top1": 91.234, "test/loss": 0.4}), **changes}


def test_metrics_and_curvatures_are_those_of_the_chosen_epoch() -> None:
    found = results()
    assert found["metrics"] == {"train/loss": 0.5, "val/top1": 92.0, "test/top1": 91.234, "test/loss": 0.4}
    assert found["curvature"] == {"encoder": 1.0}
    assert (found["epochs"], found["steps"], found["seconds"]) == (3, 30, 102.0)
    assert (found["seconds_per_epoch"], found["images_per_second"]) == (22.0, 200.0)


def test_a_run_without_an_epoch_has_a_summary() -> None:
    found = summarize([], 0, {})
    assert (found["metrics"], found["epochs"], found["seconds_per_epoch"]) == ({}, 0, None)


def test_the_table_shows_accuracy_curvature_and_time() -> None:
    assert table(results()).splitlines()[1:-1] == [
        "test accuracy           91.23 %",
        "validation accuracy     92.00 %",
        "weights of              epoch 2 of 3 (best val/top1)",
        "curvature c of encoder  1.0000",
        "time per epoch          22 s",
        "training speed          200 images/s",
    ]
    assert "time per epoch          2 min 5 s" in table(results(seconds_per_epoch=125.2))


def test_the_listing_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("results.json", "checkpoints/last.ckpt", "other.txt"):
        (tmp_path / name).touch()
    lines = listing(RunDirectory(tmp_path), ["to upload: wandb sync x"]).splitlines()
    assert lines == [f"written to {tmp_path}:", "  results.json", "  checkpoints/last.ckpt", "to upload: wandb sync x"]
