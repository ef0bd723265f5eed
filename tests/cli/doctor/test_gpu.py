"""The check of a GPU: parts survive each other, the findings are kept, and every part runs at toy size on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hyplearn.cli.doctor import gpu as check
from hyplearn.cli.doctor.command import doctor
from hyplearn.inference import gpu_parts
from hyplearn.inference.gpu_parts import Size

FINE = "import json; print(json.dumps({'what': 'a', 'value': 1.0, 'unit': 's', 'holds': True}), flush=True)"


def test_the_parts_have_eight_minutes_together() -> None:
    assert sum(check.BUDGETS.values()) <= 480
    assert set(check.BUDGETS) == {*gpu_parts.PARTS, "tests"}


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        (f"{FINE}; raise RuntimeError('broken')", "ended with status 1: RuntimeError: broken"),
        (f"{FINE}; import os; os.abort()", "ended with status -6"),
        (f"{FINE}; import time; time.sleep(60)", "not done within 2 s"),
    ],
    ids=["error", "crash", "hang"],
)
def test_a_part_that_ends_badly_keeps_what_it_found(program: str, failure: str) -> None:
    outcome = check.run_part("values", [sys.executable, "-c", program], seconds=2)
    assert outcome.failure == failure
    assert [one["what"] for one in outcome.found] == ["a"]
    assert not outcome.holds


def test_the_next_part_begins_and_the_findings_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = {"values": "raise SystemExit(3)", "mixed": FINE, "loader": FINE.replace("True", "False")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "command", lambda part, **_: [sys.executable, "-c", programs[part]])
    assert doctor(["--gpu", "--device", "cpu", "--parts", *programs]) == 1
    text = capsys.readouterr().out
    assert "FAILED ended with status 3" in text
    assert "does not hold: values, loader" in text
    (file,) = tmp_path.glob("outputs/gpu_check/*.json")
    parts = json.loads(file.read_text())["parts"]
    assert [(one["part"], len(one["found"])) for one in parts] == [("values", 0), ("mixed", 1), ("loader", 1)]


def test_without_failure_the_status_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "command", lambda part, **_: [sys.executable, "-c", FINE])
    assert doctor(["--gpu", "--parts", "values"]) == 0


@pytest.mark.parametrize("part", ["values", "mixed", "losses", "search", "loader", "steps"])
def test_every_part_runs_at_toy_size(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpu_parts.PARTS[part](Size("cpu", toy=True))
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert found
    assert all(one["holds"] is not False for one in found)


@pytest.mark.parametrize("part", ["graphs", "processes"])
def test_parts_with_a_state_of_their_own_run_in_a_process(part: str) -> None:
    outcome = check.run_part(part, check.command(part, device="cpu", toy=True), seconds=240)
    assert outcome.failure is None
    assert outcome.found
    assert outcome.holds
