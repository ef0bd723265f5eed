"""Whatever writes into a run directory holds it: while another process does, each such command says so and ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyplearn.errors import ConfigError
from hyplearn.runs.lock import occupant, occupied
from hyplearn.runs.names import HOLDER
from hyplearn.runs.writing import run_around, writing

HOLD = """
import pathlib, sys
from hyplearn.runs.lock import occupied
with occupied(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

CLASSIFIER = (
    ("train", "resume=run"),
    ("train", "resume=run/checkpoints/last.ckpt"),
    ("rerun", "original", "--compare", "run"),
    ("evaluate", "run"),
    ("evaluate", "run/checkpoints/last.ckpt"),
    ("export", "run"),
    ("export", "original", "--output", "run/copy"),
    ("predict", "original", "picture.png", "--output", "run/predictions.csv"),
    ("embed", "original", "picture.png", "--output", "run/embeddings/mine.npz"),
    ("delta", "digits", "--plot", "run/figures/delta.png"),
    ("plot", "curvature", "run", "--output", "run/figures"),
    ("plot", "convergence", "run", "--output", "run/figures"),
    ("plot", "grid", "run", "--output", "run"),
    ("plot", "weights", "run", "--output", "run"),
    ("plot", "hard-negatives", "run", "original", "--output", "run"),
    ("plot", "embeddings", "run"),
    ("report", "bdeir_table3", "--output", "run/table.md"),
    ("wandb-report", "bdeir_table3", "--output", "run/dashboard"),
    ("bench", "table4", "--output", "run/costs.json"),
)


@pytest.fixture
def held(classifier_run: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`run` and `original`, copies of a run, of which another process holds the first."""
    shutil.copytree(classifier_run, tmp_path / "run")
    shutil.copytree(classifier_run, tmp_path / "original")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", CLASSIFIER, ids=" ".join)
def test_no_command_writes_into_a_run_that_another_process_holds(
    command, held: subprocess.Popen[str], words: tuple[str, ...]
) -> None:
    before = content(Path("run"))
    answer = command(*words)
    assert answer.status == 2, answer.out + answer.err
    assert f"run is being trained by process {held.pid} on " in answer.err
    assert content(Path("run")) == before


def test_a_command_that_writes_elsewhere_is_free_to(command, held: subprocess.Popen[str]) -> None:
    assert command("plot", "curvature", "run", "--output", "figures").status == 0
    assert command("export", "run", "--output", "model").status == 0
    assert not Path("model/.lock").exists()


def test_others_are_told_that_it_is_written_to(classifier_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(classifier_run, tmp_path / "run"))
    with writing(run / "evaluations" / "one.json"):
        with pytest.raises(ConfigError, match=r"run is being written to by process \d+ on "), occupied(run):
            pass
        assert occupant(run) is not None
    assert occupant(run) is None
    (run / HOLDER).unlink(missing_ok=True)


def test_a_run_directory_is_found_from_what_lies_in_it(classifier_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(classifier_run, "outputs/run")
    Path("short").symlink_to("outputs/run")
    model = Path("model")
    model.mkdir()
    shutil.copy("outputs/run/config.yaml", model)  # an export
    for place in ("outputs/run", "outputs/run/a/b.png", "short/figures", "outputs/../outputs/run/export"):
        assert run_around(Path(place)) == Path("outputs/run"), place
    for place in ("outputs", "outputs/other", "model/weights", "plots"):
        assert run_around(Path(place)) is None, place
    monkeypatch.chdir("outputs/run/checkpoints")
    assert run_around(Path("x.csv")) == tmp_path / "outputs" / "run"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "output_dir=locked"),
        ("train", "-m", "seed=1,2", "output_dir=locked"),
        ("train", "resume=run"),
        ("rerun", "run", "--any-commit", "output_dir=locked"),
        ("evaluate", "run"),
        ("export", "run", "--output", "locked/model"),
        ("predict", "run", "picture.png", "--output", "locked/predictions.csv"),
        ("plot", "curvature", "run", "--output", "locked/figures"),
        ("report", "bdeir_table3", "--output", "locked/table.md"),
    ],
    ids=" ".join,
)
def test_a_folder_without_the_right_to_write_is_told_before_work_begins(
    command, classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    import os

    run = Path(shutil.copytree(classifier_run, tmp_path / "run"))
    (tmp_path / "locked").mkdir()
    allowed = os.access
    closed = (str(tmp_path / "locked"), str(run))

    def access(path, mode, **options) -> bool:
        refused = mode & os.W_OK and os.path.abspath(path).startswith(closed)
        return not refused and allowed(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr("hyplearn.data.datamodule.ImageDataModule.setup", lambda *_: pytest.fail("data were read"))
    before = content(tmp_path)
    answer = command(*words)
    assert answer.status == 2, answer.out + answer.err
    assert "gives no right to" in answer.err
    assert content(tmp_path) == before


def test_a_place_below_a_file_is_told_before_work_begins(command, classifier_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(classifier_run, tmp_path / "run")
    Path("taken").write_text("")
    for words in (
        ("train", "output_dir=taken/run"),
        ("export", str(run), "--output", "taken/model"),
        ("plot", "curvature", str(run), "--output", "taken/figures"),
        ("predict", str(run), "picture.png", "--output", "taken/predictions.csv"),
    ):
        answer = command(*words)
        assert answer.status == 2, (words, answer.out + answer.err)
        assert "taken" in answer.err
