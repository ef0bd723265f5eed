"""Every program that the pages for users of the library show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto"
FENCE = re.compile(r"(?ms)^```python\n(.*?)^```$")
PAGES = ["library", "geoopt", "metric_learning", "lightning"]
PROGRAMS = [
    pytest.param(body, id=f"{page}-{number}")
    for page in PAGES
    for number, body in enumerate(FENCE.findall((HOWTO / f"{page}.md").read_text(encoding="utf-8")), 1)
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_a_page_runs(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_every_page_shows_a_program() -> None:
    assert len(PROGRAMS) > len(PAGES)
