from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyplearn.errors import ConfigError
from hyplearn.runs import places as rundir

CONFIG = {"seed": 1, "optim": {"lr": 1e-5}, "output_dir": None, "resume": None}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (rundir.INHERITED, "RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def left_behind(name: str, *, status: str | None = None, checkpoint: bool = True, seed: int = 1) -> Path:
    """A run directory as an earlier run may leave it."""
    folder = Path("outputs/kind") / name
    (folder / "checkpoints").mkdir(parents=True)
    rundir.store_config(folder, {**CONFIG, "seed": seed, "output_dir": str(folder)})
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()
    if status:
        (folder / "results.json").write_text(json.dumps({"status": status}))
    return folder


def test_runs_of_the_same_second_get_directories_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["ab12", "ab12", "cd34"])
    monkeypatch.setattr(rundir, "_stamp", lambda: "2025-01-31_12-00-00")
    monkeypatch.setattr(rundir.secrets, "token_hex", lambda count: next(drawn))
    paths = [rundir.run_directory(None, "hecnn_r18_digits", seed=7) for _ in range(2)]
    assert [str(path) for path in paths] == [
        "outputs/hecnn_r18_digits/2025-01-31_12-00-00_seed7_ab12",
        "outputs/hecnn_r18_digits/2025-01-31_12-00-00_seed7_cd34",
    ]
    assert all(path.is_dir() for path in paths)


def test_name_of_a_run() -> None:
    choices = {"model": "hecnn_r18", "dataset": "digits", "experiment": None}
    assert rundir.run_name(choices) == "hecnn_r18_digits"
    assert rundir.run_name({**choices, "experiment": "grid/seeds"}) == "grid_seeds"


def test_output_dir_is_taken_if_empty_and_refused_otherwise() -> None:
    assert rundir.run_directory("mine", "kind", seed=1) == Path("mine")
    assert rundir.run_directory("mine", "kind", seed=1).is_dir()
    (Path("mine") / "file").touch()
    with pytest.raises(ConfigError, match=r"output_dir=mine is not empty: choose another, or continue .* resume=mine"):
        rundir.run_directory("mine", "kind", seed=1)


def test_processes_for_other_devices_share_the_directory_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = rundir.run_directory(None, "kind", seed=1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rundir.run_directory(None, "kind", seed=1) == first.resolve()
    assert rundir.run_directory("given", "kind", seed=1) == Path("given")
    assert len(list(Path("outputs/kind").iterdir())) == 1


def test_processes_started_by_the_user_need_a_directory_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="give all the same output_dir"):
        rundir.run_directory(None, "kind", seed=1)
    assert not Path("outputs").exists()


def test_auto_finds_the_newest_unfinished_run_of_the_same_configuration() -> None:
    left_behind("2025-01-01", status="interrupted")
    newest = left_behind("2025-01-02", status="interrupted")
    left_behind("2025-01-03", status="finished")
    left_behind("2025-01-04", checkpoint=False)
    left_behind("2025-01-05", seed=2)
    assert rundir.unfinished(Path("outputs/kind"), CONFIG) == (newest, newest / "checkpoints" / "last.ckpt")
    assert rundir.unfinished(Path("outputs/kind"), {**CONFIG, "seed": 3}) == (None, None)
    assert rundir.unfinished(Path("outputs/none"), CONFIG) == (None, None)


def test_auto_reopens_a_named_directory_only_for_the_same_configuration() -> None:
    assert rundir.reopen(Path("new"), CONFIG) == (None, None)
    folder = left_behind("one", status="failed")
    assert rundir.reopen(folder, CONFIG) == (folder, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(ConfigError, match="holds a run that differs in seed"):
        rundir.reopen(folder, {**CONFIG, "seed": 2})
    early = left_behind("two", checkpoint=False)
    assert rundir.reopen(early, CONFIG) == (early, None)
    with pytest.raises(ConfigError, match="is finished"):
        rundir.reopen(left_behind("three", status="finished"), CONFIG)


def test_locate() -> None:
    folder = left_behind("one")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert rundir.locate(folder) == rundir.locate(checkpoint) == folder
    assert rundir.to_continue(folder) == rundir.to_continue(checkpoint) == checkpoint
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        rundir.locate(Path("nowhere"))
    with pytest.raises(ConfigError, match=r"is no run directory: it has no config.yaml"):
        rundir.locate(Path("outputs"))
    with pytest.raises(ConfigError, match="has no checkpoint"):
        rundir.to_continue(left_behind("two", checkpoint=False))


def test_a_stored_configuration_comes_back_as_it_was() -> None:
    folder = left_behind("one")
    assert rundir.stored_config(folder) == {**CONFIG, "output_dir": str(folder)}
