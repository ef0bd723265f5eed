"""What the repository promises about itself: one version, targets that are listed, no trace of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import hyplearn

ROOT = Path(__file__).resolve().parents[2]
# An absolute path into somebody's home, or into the folder one checkout happened to lie in.
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:root|home|Users|work)/\w")
VAGUE = {"utils", "helpers", "common", "misc", "const"}


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_version_is_the_same_everywhere() -> None:
    assert f"\nversion: {hyplearn.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {hyplearn.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert not re.search(r"(?m)^version *=", (ROOT / "pyproject.toml").read_text())  # read from the package


def test_make_help_lists_every_target() -> None:
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text())
    answer = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert re.findall(r"(?m)^ *make ([a-z-]+) +\S", answer.stdout) == phony.split()


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in tracked_files()
        for line in path.read_text(encoding="utf-8", errors="ignore").splitlines()
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in ROOT.glob("hyplearn/**/*") if path.stem in VAGUE] == []


def test_every_folder_of_tests_mirrors_one_of_the_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/*/**/test_*.py")}
    packages = {path.parent.name for path in ROOT.glob("hyplearn/*/__init__.py")}
    assert folders - packages <= {"project", "scripts", "examples", "oracles"}
