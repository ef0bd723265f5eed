from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import Command

EPOCHS = {"learned": ((20.0, 50.0, 80.0), (10.0, 60.0, 90.0)), "fixed": ((10.0, 30.0, 70.0), (10.0, 20.0, 40.0))}


def write_run(folder: Path, *, seed: int, learned: bool, values: tuple[float, ...], **changes: Any) -> None:
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "model": {"width": 4},
        "dataset": {"name": "digits"},
        "trainer": {"max_epochs": 3},
        "manifold": {"kind": "lorentz", "c": 2.0, "decoder_c": 3.0, "learned": learned, "bounds": [0.05, 20.0]},
        "choices": {"model": "hecnn_r18", "manifold": "lorentz", "dataset": "digits"},
        **changes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["epoch", "val/top1", "curvature/encoder", "curvature/decoder", "curvature/encoder_at_bound"])
        for epoch, value in enumerate(values, start=1):
            writer.writerow([epoch, value, 2.0 + learned * epoch / 10, 3.0, 0.0])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for group, seeds in EPOCHS.items():
        for seed, values in enumerate(seeds):
            write_run(tmp_path / "runs" / f"{group}_{seed}", seed=seed, learned=group == "learned", values=values)
    return tmp_path / "runs"


def test_groups_and_epochs_to_a_target(command: Command, runs: Path) -> None:
    result = command("plot", "convergence", str(runs), "--target", "0.7", "--by", "manifold.learned", "--json")
    assert result.status == 0, result.err
    found = json.loads(result.out)
    assert (found["metric"], found["target"]) == ("val/top1", 70)
    fixed, learned = found["groups"]
    assert (fixed["group"], fixed["epochs"], fixed["never"], fixed["median_epoch"]) == (
        "learned=false",
        [3, None],
        1,
        None,
    )
    assert (learned["group"], learned["epochs"], learned["median_epoch"]) == ("learned=true", [3, 3], 3)
    assert learned["best"] == [80, 90]


def test_the_table_names_runs_that_never_get_there(command: Command, runs: Path) -> None:
    result = command("plot", "convergence", str(runs))
    assert result.status == 0, result.err
    header, fixed, learned, *written = result.out.splitlines()
    assert "epochs to 85.5 %" in header  # 95 % of the best, 90 %
    assert fixed.split()[-2:] == ["never,", "never"] and "manifold.learned" not in fixed
    assert learned.split()[-2:] == ["never,", "3"]
    assert written == ["written to plots/convergence.png", "written to plots/convergence.csv"]


def test_cells_are_named_by_what_tells_them_apart(command: Command, runs: Path) -> None:
    write_run(
        runs / "other", seed=0, learned=True, values=(1.0, 2.0, 3.0),
        choices={"model": "hcnn_r18", "manifold": "lorentz", "dataset": "digits"},
    )  # fmt: skip
    result = command("plot", "convergence", str(runs), "--json")
    names = [group["group"] for group in json.loads(result.out)["groups"]]
    assert names == ["model=hcnn_r18", "model=hecnn_r18, learned=false", "model=hecnn_r18, learned=true"]


def test_curvatures_begin_with_their_first_value(command: Command, runs: Path) -> None:
    result = command("plot", "curvature", str(runs / "learned_0"), str(runs / "fixed_1"), "--output", "out")
    assert result.status == 0, result.err
    rows = list(csv.DictReader(Path("out/curvature.csv").read_text().splitlines()))
    found = {(r["manifold"], r["run"].rpartition("/")[2], int(r["epoch"])): float(r["c"]) for r in rows}
    assert [found["encoder", "learned_0", epoch] for epoch in range(4)] == [2.0, 2.1, 2.2, 2.3]
    assert [found["decoder", "fixed_1", epoch] for epoch in range(4)] == [3.0, 3.0, 3.0, 3.0]


def test_real_runs(command: Command, classifier_run: Path) -> None:
    for kind in ("curvature", "convergence"):
        result = command("plot", kind, str(classifier_run))
        assert result.status == 0, result.err
        assert Path(f"plots/{kind}.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("curvature",), "hyplearn plot curvature needs runs"),
        (("convergence", "nowhere"), "nowhere is no folder"),
        (("convergence", "empty"), "there is no run in empty"),
        (("convergence", "runs", "--by", "manifold.lerned"), "Did you mean manifold.learned?"),
        (("convergence", "runs", "--target", "120"), "must be a share such as 0.9, or percent such as 90"),
        (("convergence", "runs", "--metric", "val/top2"), "no run has it. Did you mean val/top1?"),
        (("curvatures", "runs"), "knows no 'curvatures'. Did you mean curvature?"),
    ],
)
def test_mistakes_are_told(command: Command, runs: Path, arguments: tuple[str, ...], message: str) -> None:
    (runs.parent / "empty").mkdir()
    result = command("plot", *arguments)
    assert result.status == 2
    assert message in result.err


def test_help_lists_the_kinds(command: Command) -> None:
    result = command("plot", "--help")
    assert result.status == 0 and "embeddings" in result.out and "convergence" in result.out
    for kind in ("embeddings", "curvature", "convergence"):
        assert command("plot", kind, "--help").out.startswith(f"usage: hyplearn plot {kind} [-h]")
