"""The wheel holds all of the package, and what it holds works away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import hyplearn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as the build backend makes it; called directly, because pip would fetch the backend anew."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def site(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def read_dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"hyplearn-{hyplearn.__version__}.dist-info/{name}").decode()


def test_wheel_ships_every_config(wheel: zipfile.ZipFile) -> None:
    configs = {f"hyplearn/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("configs/**/*.yaml")}
    assert "hyplearn/configs/train.yaml" in configs
    assert configs <= set(wheel.namelist())


def test_wheel_ships_every_module_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("hyplearn/**/*.py")}
    plugins = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("hydra_plugins/**/*.py")}
    assert modules | plugins | {"hyplearn/py.typed"} <= set(wheel.namelist())
    assert "hydra_plugins/__init__.py" not in plugins  # a namespace that other distributions share


def test_wheel_ships_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {
        "hydra_plugins",
        "hyplearn",
        f"hyplearn-{hyplearn.__version__}.dist-info",
    }


def test_metadata_names_version_licence_and_python(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(read_dist_info(wheel, "METADATA"))
    assert metadata["Version"] == hyplearn.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "Copyright 2026 The hyplearn developers" in read_dist_info(wheel, "licenses/LICENSE")


def test_command_is_installed(wheel: zipfile.ZipFile) -> None:
    assert "hyplearn = hyplearn.cli.main:main" in read_dist_info(wheel, "entry_points.txt").splitlines()


def test_command_answers_away_from_the_repository(site: Path, tmp_path: Path) -> None:
    code = (
        "import sys, hyplearn\n"
        f"assert hyplearn.__file__.startswith({str(site)!r}), hyplearn.__file__\n"
        "from hyplearn.cli.main import main\n"
        "sys.argv[0] = 'hyplearn'\n"
        "sys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code, "train", "--help"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert "hecnn_r18" in answer.stdout
