"""Runs commands as a user would, in this process and in an empty working directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from hyplearn.cli.main import main


class Result(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("train", "seed=3")` is `hyplearn train seed=3` typed in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for name in ("HYPLEARN_RUN_DIR", "RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        status = main(arguments)
        return Result(status, *capsys.readouterr())

    return run


SMALL = ("trainer.accelerator=cpu", "trainer.num_threads=1", "trainer.progress=none", "callbacks.figures=false")


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network on the hyperboloid, trained for two epochs on a part of the digits. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    model = ("model=hecnn_r18", "model.width=4", "dataset.limit_train=200", "trainer.max_epochs=2")
    assert main(["train", *model, *SMALL, f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def retrieval_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT with embeddings in the ball, trained for four epochs on digits. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("retrieval") / "run"
    model = ("model=hyp_vit_s", "model.small.width=12", "model.head.size=8", "optim.lr=3e-3", "trainer.max_epochs=4")
    assert main(["train", *model, *SMALL, f"output_dir={folder}"]) == 0
    return folder
