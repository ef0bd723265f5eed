from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from hyplearn.runs.atomic import write_json, write_text, write_whole


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_text(path, "old")

    def half(stream: BinaryIO) -> None:
        stream.write(b"ne")
        stream.flush()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert path.read_text() == "old"


def test_what_a_killed_write_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.unfinished").write_text("left by a killed run, and longer than the new content")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_content_is_on_the_disk_before_it_gets_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    monkeypatch.setattr("os.fsync", lambda descriptor: events.append("fsync"))
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr("os.replace", watched)
    write_text(tmp_path / "file", "content")
    assert events == ["fsync", "replace", "fsync"]  # the file, the name, the folder


def test_json_is_strict(tmp_path: Path) -> None:
    content = {"loss": float("nan"), "c": [float("inf"), 1.5], "path": Path("x"), "n": {"m": None}}
    write_json(tmp_path / "a.json", content)
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read == {"loss": "nan", "c": ["inf", 1.5], "path": "x", "n": {"m": None}}
