"""A new run gets a directory of its own, which its processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.errors import ConfigError
from hyplearn.runs import creation
from hyplearn.runs.rank import RANKS


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (creation.INHERITED, "WORLD_SIZE", *RANKS):
        monkeypatch.delenv(name, raising=False)


def test_runs_of_the_same_second_get_directories_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["ab12", "ab12", "cd34"])
    monkeypatch.setattr(creation, "timestamp", lambda: "2025-01-31_12-00-00")
    monkeypatch.setattr(creation.secrets, "token_hex", lambda count: next(drawn))
    paths = [creation.new_run(None, "hecnn_r18_digits", seed=7).path for _ in range(2)]
    assert [str(path) for path in paths] == [
        "outputs/hecnn_r18_digits/2025-01-31_12-00-00_seed7_ab12",
        "outputs/hecnn_r18_digits/2025-01-31_12-00-00_seed7_cd34",
    ]
    assert all(path.is_dir() for path in paths)


def test_name_of_a_run() -> None:
    choices = {"model": "hecnn_r18", "dataset": "digits", "experiment": None}
    assert creation.run_name(choices) == "hecnn_r18_digits"
    assert creation.run_name({**choices, "experiment": "grid/seeds"}) == "grid_seeds"


def test_output_dir_is_taken_if_empty_and_refused_otherwise() -> None:
    assert creation.new_run("mine", "kind", seed=1).path == Path("mine")
    assert creation.new_run("mine", "kind", seed=1).path.is_dir()
    (Path("mine") / "file").touch()
    with pytest.raises(ConfigError, match=r"output_dir=mine is not empty: choose another, or continue .* resume=mine"):
        creation.new_run("mine", "kind", seed=1)


def test_processes_for_other_devices_share_the_directory_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = creation.new_run(None, "kind", seed=1).path
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert creation.new_run(None, "kind", seed=1).path == first.resolve()
    assert creation.new_run("given", "kind", seed=1).path == Path("given")
    assert len(list(Path("outputs/kind").iterdir())) == 1


def test_processes_started_by_the_user_need_a_directory_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="give all the same output_dir"):
        creation.new_run(None, "kind", seed=1)
    assert not Path("outputs").exists()


def test_a_directory_below_a_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run cannot be made: Not a directory"):
        creation.claim(tmp_path / "file" / "run")
