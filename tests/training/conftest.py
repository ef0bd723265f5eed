from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.training.fit import fit
from tests.support import runs


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one complete run, to be looked at."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(runs.spec(folder, callbacks={"figures": True}, logger={"tensorboard": True}))
    return folder
