from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
import torch

import hyplearn
from hyplearn.optim import parameter_groups
from hyplearn.training import provenance
from hyplearn.training.provenance import hardware, new_run_id, parameter_counts, source, versions
from tests.support import runs


def test_the_manifest_says_what_ran_on_what(finished_run: Path) -> None:
    manifest = json.loads((finished_run / "manifest.json").read_text())
    assert manifest["run_id"] == runs.results(finished_run)["run_id"]
    assert manifest["seed"] == 0
    assert set(manifest["dataset"]["sha256"]) == {"train"}  # the test images had not been read
    (session,) = manifest["sessions"]
    assert session["tf32"] is False
    assert session["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert session["versions"]["hyplearn"] == hyplearn.__version__
    assert session["hardware"]["threads"] == torch.get_num_threads()
    assert session["parameters"] == {
        "all": 177, "trained": 177, "groups": {"euclidean": 169, "manifold": 6, "curvature": 2}
    }  # fmt: skip
    assert (session["precision"], session["processes"]) == ("32-true", 1)
    assert session["command"]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_commit_and_changes_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    file = package / "provenance.py"
    file.write_text("a = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(file))
    git(tmp_path, "init", "-q")
    assert source() == {}  # in a repository, but no part of it: an environment inside somebody's project
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    assert source() == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    file.write_text("a = 2\n")
    assert source()["dirty"] is True


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert source() == {}


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert set(versions()) == {"hyplearn", "python", "torch"}


def test_run_ids_do_not_depend_on_the_seed() -> None:
    random.seed(0)
    first = new_run_id()
    random.seed(0)
    assert first != new_run_id()
    assert int(first, 16) >= 0
    assert len(first) == 8


def test_frozen_parameters_are_counted_apart() -> None:
    model = runs.SmallNetwork()
    model.z.requires_grad_(False)
    counts = parameter_counts(model, parameter_groups(model, lr=0.1))
    assert counts["all"] - counts["trained"] == model.z.numel()
    assert counts["groups"]["euclidean"] == 169 - model.z.numel()


def test_hardware_is_told_in_types_that_json_knows() -> None:
    assert json.loads(json.dumps(hardware())) == hardware()
    assert hardware()["processor"]
