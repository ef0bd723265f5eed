"""Two processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from torch.testing import assert_close

from hyplearn.training.fit import fit
from tests.support import runs


def test_two_processes_give_the_metrics_of_one_and_one_of_them_writes(tmp_path: Path) -> None:
    changes = {"euclidean": True, "trainer": {"max_epochs": 2, "devices": 2}, "data": {"batch_size": 12}}
    command = [sys.executable, runs.__file__, str(tmp_path / "two"), json.dumps(changes)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    one = fit(
        runs.spec(
            tmp_path / "one",
            build_model=runs.EuclideanNetwork,
            trainer={"max_epochs": 2},
            data={"batch_size": 12},
        )
    )
    two = runs.results(tmp_path / "two")
    assert_close(two["metrics"], one["metrics"], rtol=1e-5, atol=1e-5)
    ours, theirs = (runs.checkpoint(tmp_path / name)["state_dict"] for name in ("two", "one"))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert answer.stdout.count("epoch   2/2") == 1
    assert answer.stdout.count("written to") == 1
    assert two["steps"] == one["steps"]
    assert len(json.loads((tmp_path / "two" / "manifest.json").read_text())["sessions"]) == 1
