"""The README: short, and every command of it works as typed, in its order, from an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
FENCE = re.compile(r"(?ms)^```\n(.*?)^```$")
WORDS = 900
BIN = Path(sys.executable).parent


def blocks() -> list[list[str]]:
    """The commands of each block that is to be typed as it stands."""
    return [body.splitlines() for body in FENCE.findall(README.read_text(encoding="utf-8"))]


def typed(line: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=900
    )


@pytest.fixture
def activated() -> dict[str, str]:
    """The environment of a shell in which the second line of "Install" was typed."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "WANDB_MODE": "offline"}


def test_it_is_a_screen_and_a_half() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= WORDS


def test_its_links_lead_somewhere_and_its_picture_is_small() -> None:
    targets = LINK.findall(README.read_text(encoding="utf-8"))
    assert len(targets) > 15
    assert [target for target in targets if not (ROOT / target).is_file()] == []
    pictures = [ROOT / target for target in targets if target.endswith(".png")]
    assert [picture.stat().st_size < 100_000 for picture in pictures] == [True]


def test_two_lines_install_and_three_are_tried() -> None:
    install, tried = blocks()
    assert install == ["make install", ". .venv/bin/activate"]
    assert len(tried) == 3
    assert "\ninstall: " in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_the_commands_work_as_typed_and_in_order(tmp_path: Path, activated: dict[str, str]) -> None:
    _, tried = blocks()
    for line in tried:
        answer = typed(line, tmp_path, activated)
        assert answer.returncode == 0, f"{line}: {answer.stderr}"
    assert (tmp_path / "outputs/latest").exists()
    assert list(tmp_path.glob("outputs/demo_retrieval/*/figures/disk.png"))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["demo", "demo-retrieval"])
def test_a_demo_says_at_once_what_it_does_and_at_the_end_what_to_type(
    target: str, tmp_path: Path, activated: dict[str, str]
) -> None:
    make = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/.ready", f"BIN={BIN}", target]
    answer = typed(shlex.join(make), tmp_path, activated)
    assert answer.returncode == 0, answer.stderr
    first, *_ = answer.stdout.splitlines()
    assert first.startswith("training ") and "two quiet cores" in first
    last = answer.stdout[answer.stdout.index("\nlook at: ") :]
    (picture, *_) = re.findall(r"look at: +(\S+)", last)
    assert (tmp_path / picture).is_file()
    next_command = re.findall(r"type next: (.*)", last)[0]
    done = typed(next_command, tmp_path, activated)
    assert done.returncode == 0, done.stderr
