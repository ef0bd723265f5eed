from __future__ import annotations

import json
from pathlib import Path

import pytest
from data.retrieval_trees import make_cub

from hyplearn.cli.data import verify
from hyplearn.cli.errors import FAILED, OK, ConfigError


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
        ("cub", ["dataset.root=null"], r"cub is read from files: set dataset\.root"),
    ],
)
def test_mistakes_in_the_command_are_named(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verify(name, overrides)
