from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyplearn.runs.lock import occupant
from tests.support.commands import SMALL
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells of a parent's end")

# A parent that starts a job which waits for a minute, says its number, and waits too.
PARENT = """
import subprocess, sys, time
from hyplearn.jobs.processes import environment
child = "import time; from hyplearn.jobs.parent import end_with_parent; end_with_parent(); print('ready', flush=True); time.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", child], env=environment({}), stdout=subprocess.PIPE, text=True, start_new_session=True)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""  # noqa: E501
# A job whose parent is another process than the one named to it.
ORPHAN = "from hyplearn.jobs.parent import end_with_parent; end_with_parent(); print('went on')"


def gone(pid: int) -> bool:
    """Whether no process has this number, or one that is dead and not yet collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except FileNotFoundError:
        return True


def test_a_job_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        job = int(parent.stdout.readline())
        assert not gone(job)
        parent.kill()
    until(lambda: gone(job), 10)


def test_a_job_whose_parent_has_gone_already_does_not_begin() -> None:
    environment = {**os.environ, "HYPLEARN_PARENT": "1"}
    ended = subprocess.run([sys.executable, "-c", ORPHAN], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")


def test_a_run_that_was_typed_has_no_parent_to_end_with() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HYPLEARN_PARENT"}
    ended = subprocess.run([sys.executable, "-c", ORPHAN], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "went on\n")


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_run_behind_and_each_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user meets it: SIGKILL reaches the command alone, the job writes its checkpoint and ends."""
    monkeypatch.chdir(tmp_path)
    model = ("model.width=4", "dataset.limit_train=200", "trainer.max_epochs=60")
    line = [sys.executable, "-m", "hyplearn", "train", "-m", *model, *SMALL, "seed=1", "output_dir=grid"]
    run_dir = Path("grid/0")
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sweep:
        until(lambda: (run_dir / "metrics.csv").exists(), 120)
        job = json.loads((run_dir / ".lock.json").read_text())["pid"]
        assert not gone(job)
        sweep.kill()
    assert json.loads(Path("grid/summary.json").read_text())["jobs"][0]["state"] == "running"
    until(lambda: gone(job), 60)
    assert occupant(run_dir) is None
    assert (run_dir / "checkpoints" / "last.ckpt").is_file()
    assert json.loads((run_dir / "results.json").read_text())["status"] != "finished"
