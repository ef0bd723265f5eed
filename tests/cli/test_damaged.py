"""Damaged files of runs: readers of many runs leave them out and name them, a command for one says which it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = ("config.yaml", "manifest.json", "results.json", "metrics.csv")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2].rstrip()[:-3] + b'"')


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def other_shape(path: Path) -> None:
    path.write_text({".csv": "epoch,val/top1\n1,much,more\n"}.get(path.suffix, "[1, 2]\n"))


def other_values(path: Path) -> None:
    texts = {
        "config.yaml": "seed: one\nmodel: 3\ndataset: {}\ntrainer: {}\nchoices: {}\n",
        "manifest.json": '{"sessions": [1]}',
        "results.json": '{"status": "finished", "metrics": {"test/top1": [1]}, "selection": {"checkpoint": 5}}',
        "metrics.csv": "epoch,train/loss\none,two\n",
    }
    path.write_text(texts[path.name])


def unreadable(path: Path) -> None:
    path.unlink()
    os.symlink(path.name, path)  # a link to itself: a file that exists in no way


WAYS: tuple[Callable[[Path], None], ...] = (truncated, binary, other_shape, other_values)


@pytest.fixture
def outputs(command, classifier_run: Path, tmp_path: Path) -> Path:
    for name in ("damaged", "sound"):
        shutil.copytree(classifier_run, tmp_path / "outputs" / name)
    return tmp_path / "outputs"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", FILES)
def test_readers_of_many_runs_leave_it_out_and_name_it(
    command, outputs: Path, caplog: pytest.LogCaptureFixture, name: str, way: Callable[[Path], None]
) -> None:
    way(outputs / "damaged" / name)
    for words in (
        ("report", "bdeir_table3"),
        ("reproduce", "bdeir_table3", "--dry-run"),
        ("plot", "convergence", "outputs", "--output", "figure"),
        ("wandb-report", "bdeir_table3", "--output", "page"),
    ):
        caplog.clear()
        answer = command(*words)
        said = answer.out + answer.err + caplog.text
        assert answer.status in (0, 1, 2), said
        assert "Traceback" not in said, words
        assert f"damaged/{name} is damaged" in said, (words, said)
        assert f"sound/{name} is damaged" not in said


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_command_for_this_run_names_the_file(command, outputs: Path, name: str, way: Callable[[Path], None]) -> None:
    way(outputs / "damaged" / name)
    for verb in ("evaluate", "export", "rerun"):
        answer = command(verb, "outputs/damaged")
        assert answer.status == 2, (verb, answer.out + answer.err)
        assert f"damaged/{name}" in answer.err, verb


def test_a_link_to_itself_is_no_run(command, outputs: Path) -> None:
    unreadable(outputs / "damaged" / "config.yaml")
    assert "Traceback" not in command("report", "bdeir_table3").err
    assert command("evaluate", "outputs/damaged").status == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(command, outputs: Path) -> None:
    (outputs / "damaged" / "config.yaml").unlink()
    os.mkfifo(outputs / "damaged" / "config.yaml")
    assert "Traceback" not in command("report", "bdeir_table3").err
    assert command("evaluate", "outputs/damaged").status == 2
