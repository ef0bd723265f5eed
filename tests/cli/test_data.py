from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyplearn.cli.data import verify
from hyplearn.config.folders import config_dir, groups
from hyplearn.errors import FAILED, OK, ConfigError
from tests.support.retrieval_trees import make_cub


def test_a_sound_tree_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cub(tmp_path)
    assert verify("cub", [f"dataset.root={tmp_path}"]) == OK
    assert "training images   20 of 5,864" in capsys.readouterr().out


def test_problems_end_with_1_and_json_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (make_cub(tmp_path) / "images/001.Bird_1/Bird_1_0000.jpg").unlink()
    assert verify("cub", [f"dataset.root={tmp_path}"], as_json=True) == FAILED
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["file"].endswith("images.txt")
    assert problem["line"] == 1


def test_data_in_no_files_are_clean() -> None:
    assert verify("digits_retrieval", []) == OK


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("carrs", [], r"unknown choice dataset=carrs\. Did you mean cars\?"),
        ("csv_retrieval", [], "dataset.root is missing"),
        ("cub", ["dataset.roots=x"], r"unknown key dataset\.roots"),
        ("cub", ["root=x"], r"root=x would be ignored: verify reads keys of the data set, such as dataset\.root"),
        ("cub", ["dataset.root=null"], r"cub is read from files: set dataset\.root"),
    ],
)
def test_mistakes_in_the_command_are_named(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verify(name, overrides)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("data", "hyplearn data needs a command: hyplearn data verify <dataset>, or hyplearn data shard"),
        ("data verfy cub", "hyplearn data needs another command than verfy"),
        ("data verify", "needs a data set: hyplearn data verify cub"),
        ("data verify dataset.root=x", "needs a data set"),
        ("data shard", "hyplearn data shard needs a data set: hyplearn data shard cub"),
        ("data shard cub", "hyplearn data shard needs --to <a new folder>"),
        ("data shard cub --to x --json", "hyplearn data shard needs --to <a new folder>, and has no --json"),
        ("data shard digits --to x", "dataset=digits: digits is not made of image files: it needs no shards"),
        ("data shard cub --to x --shard-mib 0", "--shard-mib"),
        ("data verify cub --to x", "--to and --shard-mib belong to hyplearn data shard"),
        ("data verify cub --jsn", "unrecognized arguments: --jsn (see hyplearn data --help)"),
        ("data verify cub --config-dir nowhere", "nowhere is no folder"),
    ],
)
def test_mistakes_in_the_command_line_are_named(command, line: str, message: str) -> None:
    result = command(*line.split())
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert message in result.err


def test_the_command_line_verifies_and_explains_itself(command, tmp_path: Path) -> None:
    make_cub(tmp_path / "data")
    assert command("data", "verify", "cub").status == 0  # data/ of the working directory
    found = command("data", "verify", "cub", f"dataset.root={tmp_path / 'data'}", "--json")
    assert found.status == 0
    assert json.loads(found.out)["counts"]["test images"] == {"found": 12, "full": 5924}
    nowhere = command("data", "verify", "sop", "dataset.root=elsewhere")
    assert nowhere.status == 1
    assert "1 problem:\n  elsewhere: no sop found" in nowhere.out
    assert "or set dataset.root to where it is" in nowhere.out
    shown = command("data", "--help")
    assert shown.status == 0
    assert all(name in shown.out for name in groups([config_dir()])["dataset"])


def test_a_data_set_of_ones_own_is_verified(command, tmp_path: Path) -> None:
    make_cub(tmp_path / "birds")
    (tmp_path / "more" / "dataset").mkdir(parents=True)
    mine = f"defaults: [cub]\nroot: {tmp_path / 'birds'}\n"
    (tmp_path / "more" / "dataset" / "mine.yaml").write_text(mine)
    assert command("data", "verify", "mine", "--config-dir", "more").status == 0
    assert "Did you mean mine?" in command("data", "verify", "mne", "--config-dir", "more").err


def test_shards_are_made_and_trained_on(command, tmp_path: Path) -> None:
    make_cub(tmp_path / "birds")
    result = command("data", "shard", "cub", f"dataset.root={tmp_path / 'birds'}", "--to", "shards")
    assert result.status == OK
    assert "20 train, 12 test images in shards" in result.out
    assert "train on them with dataset=shards_retrieval dataset.root=shards" in result.out
    assert command("data", "verify", "shards_retrieval", "dataset.root=shards").status == OK
    again = command("data", "shard", "cub", f"dataset.root={tmp_path / 'birds'}", "--to", "shards")
    assert again.status == 2
    assert "shards is there already: name a new folder" in again.err
