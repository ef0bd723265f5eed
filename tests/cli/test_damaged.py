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


QUICK = (
    "experiment=smoke",
    "trainer.max_epochs=0",
    "trainer.progress=none",
    "trainer.num_threads=1",
    "trainer.accelerator=cpu",
    "callbacks.figures=false",
)
SEARCH = ("tune", "model=hyp_vit_s", "trainer.max_epochs=3", "--space", "loss.tau=log(0.02,1)", "--name", "mine")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def other_keys(path: Path) -> None:
    texts = {
        "summary.json": '{"jobs": [{"job": "seed=1", "state": 3, "exit_status": "0"}]}',
        "multirun.yaml": "hydra: {overrides: 3}\n",
        "study.json": "[]",
        "study.db": "SQLite format 3\0 and something else",
    }
    path.write_text(texts[path.name])


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BOOKS: tuple[Callable[[Path], None], ...] = (truncated, binary, emptied, other_keys, a_pipe)
HARMLESS = ("multirun.yaml", truncated)  # what was typed stands in its first half
books = pytest.mark.parametrize("way", BOOKS, ids=lambda way: way.__name__)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one job that came to its end."""
    from hyplearn.cli.main import main

    folder = tmp_path_factory.mktemp("sweep") / "done"
    assert main(["train", "-m", *QUICK, "seed=1", f"output_dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in ("multirun.yaml", "summary.json") for way in BOOKS if (name, way) != HARMLESS],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_sweep_that_would_be_continued_names_the_file(
    command, sweep: Path, name: str, way: Callable[[Path], None]
) -> None:
    shutil.copytree(sweep, "done")
    line = (Path("done") / "multirun.yaml").read_text().replace(str(sweep), "done")
    (Path("done") / "multirun.yaml").write_text(line)
    way(Path("done") / name)
    before = sorted(Path("done").rglob("*"))
    answer = command("train", "-m", *QUICK, "seed=1", "output_dir=done")
    assert answer.status == 2, answer.out + answer.err
    assert f"done/{name}" in answer.err
    assert "damaged" in answer.err or "cannot be read" in answer.err
    assert all(path.exists() for path in before)


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in ("multirun.yaml", "summary.json") for way in BOOKS if (name, way) != HARMLESS],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_sweep_that_nobody_named_is_left_out_and_named(
    command, sweep: Path, caplog: pytest.LogCaptureFixture, name: str, way: Callable[[Path], None]
) -> None:
    from hyplearn.jobs.multirun import _stopped_sweep, _stored_line

    shutil.copytree(sweep, "outputs/multirun/1")
    way(Path("outputs/multirun/1") / name)
    assert _stopped_sweep(Path("outputs/multirun"), _stored_line(sweep)) is None
    assert f"left out: outputs/multirun/1/{name}" in caplog.text


@books
@pytest.mark.parametrize("name", ["study.json", "study.db"])
def test_a_search_names_the_file(command, tmp_path: Path, name: str, way: Callable[[Path], None]) -> None:
    from hyplearn.jobs.tuning.study import storage

    folder = tmp_path / "outputs" / "tune" / "mine"
    with storage(folder / "study.db"):
        pass
    (folder / "study.json").write_text('{"metric": "val/recall@1"}')
    (folder / "trials.json").write_text('{"trials": []}')
    way(folder / name)
    if name == "study.db":
        (folder / "study.json").unlink()
    answer = command(*SEARCH)
    assert answer.status == 2, answer.out + answer.err
    assert f"outputs/tune/mine/{name}" in answer.err
    assert "damaged" in answer.err or "cannot be" in answer.err
    assert not list(folder.glob("**/config.yaml"))


def test_a_file_of_studies_that_is_damaged_in_its_middle_is_named(tmp_path: Path) -> None:
    import optuna

    from hyplearn.errors import ConfigError
    from hyplearn.jobs.tuning.study import storage

    file = tmp_path / "study.db"
    with storage(file) as found:
        optuna.create_study(study_name="mine", storage=found)
    pages = file.read_bytes()
    for kept in (1, 4, 12):
        file.write_bytes(pages[: kept * 4096] + b"\xff" * (len(pages) - kept * 4096))
        with (
            pytest.raises(ConfigError, match=r"study\.db (is damaged|cannot be used) \(.*malformed"),
            storage(file) as found,
        ):
            optuna.load_study(study_name="mine", storage=found)


def test_a_measurement_of_costs_that_is_damaged_is_named(command, tmp_path: Path) -> None:
    (tmp_path / "outputs/bench").mkdir(parents=True)
    for content in (b"{", b"[]", b"{}", bytes(range(256)), b'{"rows": 3}', b'{"rows": [{}]}'):
        (tmp_path / "outputs/bench/table4_1.json").write_bytes(content)
        answer = command("report", "bdeir_table4")
        assert answer.status == 2, (content, answer)
        assert "table4_1.json is damaged" in answer.err
