from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from hyplearn.runs.atomic import write_json, write_text, write_whole, write_yaml


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


def test_yaml_is_one_line_for_a_value(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    content = {"seed": 1, "optim": {"lr": 1e-05, "betas": (0.9, 0.999)}, "note": "a b", "none": None, "empty": {}}
    write_yaml(path, {**content, "sizes": [1, 2], "parts": [{"name": "x", "weight": 1e22}]})
    assert path.read_text() == (
        "seed: 1\noptim:\n  lr: 1.0e-05\n  betas: [0.9, 0.999]\n"
        'note: "a b"\nnone: null\nempty: {}\n'
        'sizes: [1, 2]\nparts: [{name: "x", weight: 1.0e+22}]\n'
    )


@pytest.mark.parametrize(
    "value",
    [
        *(1e-05, -1e-300, 1.5e300, 3.0, float("inf"), float("-inf"), 10**20, True, None, "", [], {}),
        *("1e-5", "1", "true", "null", "~", "2020-01-01", "on", "x: y # z", "- a", "long " * 100),
        *('C:\\path "q"', "\u00fc \U0001f600", "two\nlines\t", [["a", 1.0], [{"on": "off"}]], {"on": {"1": [None]}}),
    ],
)
def test_every_reader_of_yaml_gets_the_value_that_was_written(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write_yaml(path, {"key": value, "below": {"on": value, "a.b": value}})
    expected = {"key": value, "below": {"on": value, "a.b": value}}
    text = path.read_text(encoding="utf-8")
    for loader in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        found = yaml.load(text, Loader=loader)
        assert found == expected
        assert type(found["key"]) is type(value)
    assert OmegaConf.to_container(OmegaConf.load(path)) == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("writer", ["plain", "torch"])
def test_a_full_disk_is_told_with_the_path_and_leaves_nothing(
    tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".a.ckpt.unfinished").symlink_to("/dev/full")
    content = {"weights": torch.zeros(100_000)}
    write = {"plain": lambda stream: stream.write(bytes(100_000)), "torch": lambda stream: torch.save(content, stream)}
    with pytest.raises(OSError, match="No space left on device") as refused:
        write_whole(tmp_path / "a.ckpt", write[writer])
    assert refused.value.filename == str(tmp_path / "a.ckpt")
    assert refused.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
