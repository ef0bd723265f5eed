from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hyplearn.jobs.launcher import Job, JobState
from hyplearn.jobs.ledger import Ledger, Shown, in_words, stored_jobs


def ledger(folder: Path, *jobs: Job) -> Ledger[Job]:
    columns = {
        "name": lambda job: job.name,
        "state": in_words,
        "overrides": lambda job: list(job.overrides),
        "varied": lambda job: dict(job.varied),
    }
    return Ledger(folder, "ledger", jobs, columns=columns, listed="jobs", head=lambda: {"what": "a test"})


def jobs() -> list[Job]:
    first = Job("0", (), Path(), ("seed=1", "optim.lr=1"), {"seed": "1"}, state=JobState.FINISHED)
    return [first, Job("1", (), Path(), (), {"manifold.c": "2"})]


def test_both_files_say_the_same_of_every_job(tmp_path: Path) -> None:
    ledger(tmp_path, *jobs()).write()
    content = json.loads((tmp_path / "ledger.json").read_text())
    assert content["what"] == "a test"
    assert content["jobs"][0] == {
        "name": "0",
        "state": "finished",
        "overrides": ["seed=1", "optim.lr=1"],
        "varied": {"seed": "1"},
    }
    assert stored_jobs(tmp_path, "ledger", "jobs") == content["jobs"]
    rows = list(csv.DictReader((tmp_path / "ledger.csv").read_text().splitlines()))
    assert rows[0] == {
        "name": "0",
        "state": "finished",
        "overrides": "seed=1 optim.lr=1",
        "seed": "1",
        "manifold.c": "",
    }
    assert rows[1]["manifold.c"] == "2"


def test_nothing_is_stored_where_no_ledger_lies(tmp_path: Path) -> None:
    assert stored_jobs(tmp_path, "ledger", "jobs") == []


def test_an_empty_ledger_has_a_file_without_rows(tmp_path: Path) -> None:
    ledger(tmp_path).write()
    assert stored_jobs(tmp_path, "ledger", "jobs") == []


def test_the_table_and_the_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ledger(tmp_path, *jobs())
    found.print([Shown("job", lambda job: job.name), Shown("time", lambda job: "3 s", True), Shown("state", in_words)])
    head, _, first, second = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert head == ["job", "state", "time"]
    assert first == ["0", "finished", "3", "s"]
    assert second == ["1", "not", "run", "3", "s"]
    assert found.sum() == "2 jobs: 1 finished, 1 not run"
    assert not found.complete


def test_a_job_that_ends_by_the_signal_it_was_sent_was_interrupted() -> None:
    for status in (-15, 143):
        (job, _) = jobs()
        job.begin()
        job.end(status, "killed by SIGTERM", 1.0, stopped=15)
        assert (job.state, job.status, job.reason) == (JobState.INTERRUPTED, 143, "stopped by SIGTERM")
        job.end(1, "broken", 1.0, stopped=15)
        assert (job.state, job.reason) == (JobState.FAILED, "broken")
        job.end(143, "stopped", 1.0)  # by somebody else
        assert job.state is JobState.FAILED
        job.end(0, "", 1.0, stopped=15)
        assert job.state is JobState.FINISHED
