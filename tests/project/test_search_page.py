"""The page about searching as it is followed: every command of it works, in its order, from an empty folder."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "search.md"
FENCE = re.compile(r"(?ms)^```(python|console)\n(.*?)^```$")
PORT = "8000"


def steps() -> list[tuple[str, str]]:
    """The kind and the text of everything that a reader types."""
    found: list[tuple[str, str]] = []
    for kind, body in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        lines = [line.removeprefix("$ ") for line in body.splitlines()]
        found += [(kind, body)] if kind == "python" else [(kind, line) for line in lines]
    return found


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@pytest.mark.slow
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "WANDB_MODE": "offline", "no_proxy": "*"}
    port, service = free_port(), None
    try:
        for kind, text in steps():
            typed = (
                [sys.executable, "-c", text] if kind == "python" else ["sh", "-c", f"exec {text.replace(PORT, port)}"]
            )
            if text.startswith("hyplearn serve"):
                service = subprocess.Popen(typed, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
                assert service.stdout is not None
                assert any("serving at" in line for line in service.stdout)  # reads up to there
                continue
            done = subprocess.run(
                typed, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=1200
            )
            assert done.returncode == 0, f"{text}: {done.stderr}"
    finally:
        if service is not None:
            service.terminate()
            service.communicate(timeout=60)
    assert service is not None and service.returncode == 0
    made = ("found/sheet.png", "found/index.html", "found/neighbours.csv", "models/search/search.py", "kept.npz")
    assert [name for name in made if not (tmp_path / name).is_file()] == []


def test_it_shows_every_kind_of_search() -> None:
    lines = [text for kind, text in steps() if kind == "console"]
    for start in ("hyplearn search", "hyplearn export", "hyplearn serve", "python models/search/search.py", "curl"):
        assert any(line.startswith(start) for line in lines), start
