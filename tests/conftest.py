"""Settings of all tests: random numbers and hypothesis examples are the same every time, `gpu` tests need a GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support.commands import SMALL, Command, Result

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # the first example pays for imports and caches
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault of the test
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test keeps for later runs lies in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPLEARN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("train", "seed=3")` is `hyplearn train seed=3` typed in `tmp_path`."""
    from hyplearn.cli.main import main

    monkeypatch.chdir(tmp_path)
    for name in ("HYPLEARN_RUN_DIR", "RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        handlers = list(logging.root.handlers)
        status = main(arguments)
        logging.root.handlers[:] = handlers  # Hydra's write to the standard output of this test
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network on the hyperboloid, trained for two epochs on a part of the digits. Tests leave it as it is."""
    from hyplearn.cli.main import main

    folder = tmp_path_factory.mktemp("classifier") / "run"
    model = ("model=hecnn_r18", "model.width=4", "dataset.limit_train=200", "trainer.max_epochs=2")
    assert main(["train", *model, *SMALL, f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def retrieval_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT with embeddings in the ball, trained for four epochs on digits. Tests leave it as it is."""
    from hyplearn.cli.main import main

    folder = tmp_path_factory.mktemp("retrieval") / "run"
    model = ("model=hyp_vit_s", "model.small.width=12", "model.head.size=8", "optim.lr=3e-3", "trainer.max_epochs=4")
    assert main(["train", *model, *SMALL, f"output_dir={folder}"]) == 0
    return folder
