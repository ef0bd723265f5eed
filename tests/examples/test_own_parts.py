"""The package of `examples/own_parts/`, installed as by a user, and the folder of the tutorial, by the command line."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import SMALL

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_parts"
SHORT = ("trainer.max_epochs=1", *SMALL)

# hyplearn(folder, *arguments): what is typed in a folder where the package is installed.
Typed = Callable[..., subprocess.CompletedProcess[str]]


def typed_in(folder: Path, *arguments: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `python -m hyplearn` answers in a folder. site: where further packages are installed."""
    places = [str(place) for place in (site, ROOT) if place is not None]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "hyplearn", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def hyplearn(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    site = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    line = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(site), str(EXAMPLE)]
    subprocess.run(line, check=True, capture_output=True, text=True, timeout=120)
    return lambda folder, *arguments: typed_in(folder, *arguments, site=site)


def results(run: Path) -> dict[str, float]:
    """The metrics of a run that is finished."""
    written = json.loads((run / "results.json").read_text())
    assert written["status"] == "finished"
    metrics: dict[str, float] = written["metrics"]
    return metrics


def test_all_parts_train_together_and_are_tested_again(hyplearn: Typed, tmp_path: Path) -> None:
    line = ("experiment=own_shapes", *SMALL, "trainer.max_epochs=6", "output_dir=run")
    trained = hyplearn(tmp_path, "train", *line)
    assert trained.returncode == 0, trained.stderr
    assert results(tmp_path / "run")["test/top1"] > 60  # of four classes
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert all(float(row["own/gradient_norm"]) > 0 for row in rows)
    assert len({row["curvature/decoder"] for row in rows}) == len(rows)  # the own optimizer moves it
    refused = hyplearn(tmp_path, "evaluate", "run")
    assert refused.returncode == 2
    assert "hyplearn evaluate run --trust own_parts" in refused.stderr
    again = hyplearn(tmp_path, "evaluate", "run", "--trust", "own_parts")
    assert again.returncode == 0, again.stderr
    assert f"{results(tmp_path / 'run')['test/top1']:.4f}" in again.stdout


def test_a_multirun_finds_the_choices_of_the_package(hyplearn: Typed, tmp_path: Path) -> None:
    small = ("dataset.limit_train=100", "dataset.val_fraction=0", "output_dir=sweep", *SHORT)
    line = ("model=glob(own_n*)", "loss=cross_entropy,own_loss")
    swept = hyplearn(tmp_path, "train", "-m", "--jobs", "2", *line, *small)
    assert swept.returncode == 0, swept.stderr
    assert "test/top1" in results(tmp_path / "sweep" / "0_loss-cross_entropy")
    assert "test/top1" in results(tmp_path / "sweep" / "1_loss-own_loss")


def test_parts_of_the_package_and_of_hyplearn_work_together(hyplearn: Typed, tmp_path: Path) -> None:
    line = ("model=hyp_vit_s", "backbone=conv_small_images", "manifold=own_lorentz", "loss=own_neighbours", *SHORT)
    mixed = hyplearn(tmp_path, "train", *line, "output_dir=run")
    assert mixed.returncode == 0, mixed.stderr
    assert "test/recall@1" in results(tmp_path / "run")


def test_messages_and_help_know_the_choices_of_the_package(hyplearn: Typed, tmp_path: Path) -> None:
    wrong = hyplearn(tmp_path, "train", "model=own_nt")
    assert wrong.returncode == 2
    assert "unknown choice model=own_nt. Did you mean own_net?" in wrong.stderr
    jobs = hyplearn(tmp_path, "train", "-m", "loss=own_los,own_loss", "model=own_net")
    assert jobs.returncode == 2
    assert "Did you mean own_loss?" in jobs.stderr
    listed = hyplearn(tmp_path, "train", "--help").stdout
    assert all(name in listed for name in ("own_net", "own_shapes", "own_lorentz", "own_adamw", "own_callbacks"))
    offered = hyplearn(tmp_path, "completion", "--words", "hyplearn train model=own_").stdout
    assert offered.split() == ["model=own_embedder", "model=own_net"]
    searched = hyplearn(tmp_path, "train", "--info", "searchpath").stdout
    assert "pkg://own_parts.configs" in searched
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_tutorial_trains(tmp_path: Path) -> None:
    """Written out from the page itself: a module beside a folder of configurations, nothing installed."""
    page = (ROOT / "docs" / "tutorials" / "own_parts.md").read_text()
    blocks = dict(reversed(re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", page)))  # the first of each language
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "my_parts.py").write_text(blocks["python"])
    (tmp_path / "conf" / "model" / "my_net.yaml").write_text(blocks["yaml"])
    program, *line = shlex.split(blocks["bash"])
    assert program == "hyplearn"
    trained = typed_in(tmp_path, *line, *SHORT, "dataset.limit_train=100", "output_dir=run")
    assert trained.returncode == 0, trained.stderr
    assert "test/top1" in results(tmp_path / "run")
    wrong = typed_in(tmp_path, *line, "model=my_nt")
    assert wrong.returncode == 2
    assert "Did you mean my_net?" in wrong.stderr
