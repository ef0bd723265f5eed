"""Tutorials as they are followed: every command of a page works, in its order, from what the page before it left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
FENCE = re.compile(r"(?ms)^```(python|console)\n(.*?)^```$")
OUTPUT = re.compile(r"\boutput_dir=(\S+)")
FOLDER = re.compile(r"(?<![\w=/])outputs/([\w/]+)")
# What a page shows for a reader's own files, a GPU or an installation.
NOT_HERE = ("/data/", "trainer=gpu", "pip install", " mine.npz", "--onnx", "--index")
# Pages that follow each other, with what they take from the one before.
WALKS = {
    "first_run": ["first_run"],
    "own_images": ["own_images", "export_predict"],
    "retrieval": ["retrieval"],
    "hard_negatives": ["hard_negatives"],
}


def steps(page: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of everything that a reader types."""
    for kind, body in FENCE.findall((TUTORIALS / f"{page}.md").read_text(encoding="utf-8")):
        if kind == "python":
            yield kind, body
            continue
        for line in body.replace("\\\n", " ").splitlines():
            if line.startswith("$ ") and not any(sign in line for sign in NOT_HERE):
                yield kind, line.removeprefix("$ ").replace("python train.py", "hyplearn train")


@pytest.mark.parametrize("walk", WALKS)
def test_no_step_takes_a_folder_that_no_step_has_made(walk: str) -> None:
    made: list[str] = []
    lines = [line for page in WALKS[walk] for kind, line in steps(page) if kind == "console"]
    assert len(lines) > 1
    for line in lines:
        taken = FOLDER.findall(OUTPUT.sub("", line))
        assert [name for name in taken if name.split("/")[0] not in [*made, "latest"]] == [], line
        made += [Path(name).name for name in OUTPUT.findall(line)]


@pytest.mark.slow
@pytest.mark.parametrize("walk", WALKS)
def test_a_page_can_be_followed(walk: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "WANDB_MODE": "offline"}
    for page in WALKS[walk]:
        for kind, text in steps(page):
            typed = [sys.executable, "-c", text] if kind == "python" else ["sh", "-c", text]
            done = subprocess.run(
                typed, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=1200
            )
            assert done.returncode == 0, f"{page}: {text}: {done.stderr}"
