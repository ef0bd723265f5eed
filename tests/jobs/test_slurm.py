from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.errors import ConfigError
from hyplearn.jobs.launcher import Job, JobState
from hyplearn.jobs.slurm import Submitit


@pytest.mark.slow
def test_submitit_runs_jobs_in_processes_of_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    queue = Submitit("local", tmp_path, {"timeout_min": 5}, jobs=2)
    lines = [Job("good", ("--version",), tmp_path), Job("bad", ("train", "model=hecn_r18"), tmp_path)]
    ended = {job.name: job for job in queue.launch(iter(lines))}
    assert (ended["good"].state, ended["good"].status, ended["good"].reason) == (JobState.FINISHED, 0, "")
    assert ended["bad"].status == 2
    assert "Did you mean hecnn_r18?" in ended["bad"].reason


def test_an_unknown_wish_of_the_queue_is_named(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match="--launcher submitit"):
        list(Submitit("slurm", tmp_path, {"slurm_colour": "red"}).launch(iter([Job("0", ("--version",), tmp_path)])))
