from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hyplearn.training.callbacks import progress
from hyplearn.training.callbacks.progress import LiveBar, PlainLines, build_progress, epoch_line, log, run_log
from hyplearn.training.fit import fit
from tests.support import runs

ROW = {
    "epoch": 3, "train/loss": 0.51234, "train/top1": 87.654, "val/top1": 90.1, "images_per_second": 1234.5,
    "seconds": 9.87, "curvature/encoder": 0.61234567, "curvature/decoder": 1.0, "curvature/encoder_at_bound": 0.0,
}  # fmt: skip


def test_an_epoch_in_one_line() -> None:
    start, end = "epoch   3/20  loss 0.5123  train 87.65 %  val 90.10 %", "1234 images/s  9.9 s"
    assert epoch_line(ROW, 20) == f"{start}  c encoder 0.6123  c decoder 1.0000  {end}"


def test_many_curvatures_are_told_as_a_range() -> None:
    row = {**ROW, "curvature/third": 4.0}
    assert "c 0.6123 to 4.0000  " in epoch_line(row, 20)


def test_no_validation_and_no_curvature_leave_no_hole() -> None:
    row = {name: value for name, value in ROW.items() if "/" not in name or name.startswith("train")}
    assert epoch_line(row, 3) == "epoch   3/3  loss 0.5123  train 87.65 %  1234 images/s  9.9 s"


@pytest.mark.parametrize(("terminal", "expected"), [(True, LiveBar), (False, PlainLines)])
def test_a_bar_needs_a_terminal(terminal: bool, expected: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert [type(callback) for callback in build_progress("auto")] == [expected]
    assert build_progress("none") == []


def test_a_live_bar_shows_loss_accuracy_and_curvature_and_leaves_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LIVE_SECONDS", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    fit(runs.spec(tmp_path, trainer={"progress": "rich", "max_epochs": 2}))
    said = capsys.readouterr().out
    assert "━" in said  # the bar itself
    assert "epoch 2/2" in said
    assert "validation" in said
    assert said.count("images/s") == 3  # a line for each epoch and one of the last table
    assert "c encoder" in said
    assert "\x1b[?25h" in said  # the cursor is given back


@pytest.mark.parametrize("width", [80, 100, 200])
def test_batch_time_and_loss_stand_whole_in_a_line_of_every_width(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    bar = progress.live_bar(console)
    parts = ["loss 0.5123", "train 87.65 %", "c encoder 0.6123", "c decoder 1.0000"]
    now = progress.fitting(parts, width - progress.BESIDE)
    bar.add_task("epoch 100/200", total=1000, completed=999, now=now)
    console.print(bar.get_renderable())
    assert isinstance(console.file, io.StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert len(line) <= width
    assert "epoch 100/200" in line and " 999/1000 " in line and "-:--:--" in line and "loss 0.5123" in line
    assert ("c decoder 1.0000" in line) == (width > 100)
    assert "…" not in line


def test_a_long_epoch_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    fit(runs.spec(tmp_path, trainer={"max_epochs": 1}))
    said = capsys.readouterr().out
    assert "epoch   1  batch 3/8  loss " in said
    assert said.count("batch ") == 8


def test_what_is_said_goes_to_the_file_too_and_the_logger_is_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (log.level, log.propagate, list(log.handlers))
    for number in range(2):
        with run_log(tmp_path / "train.log", quiet=False):
            log.info("session %d", number)
            log.warning("careful")
            progress.log_failure(RuntimeError("broken"))
    assert (log.level, log.propagate, list(log.handlers)) == before
    assert capsys.readouterr().out == "session 0\nwarning: careful\nsession 1\nwarning: careful\n"
    text = (tmp_path / "train.log").read_text()
    assert text.index("session 0") < text.index("session 1")
    assert text.count("RuntimeError: broken") == 2


def test_processes_but_the_first_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with run_log(None, quiet=False):
        log.info("a line")
        log.warning("a warning")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("hyplearn") is log


def test_an_exception_stops_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Any] = []
    monkeypatch.setattr(LiveBar, "_stop", lambda self: stopped.append(self._bar and self._bar.stop()))
    spec = runs.spec(tmp_path, trainer={"progress": "rich"})

    def broken(*args: Any) -> None:
        raise RuntimeError("in an epoch")

    monkeypatch.setattr(progress, "epoch_line", broken)
    with pytest.raises(RuntimeError, match="in an epoch"):
        fit(spec)
    assert len(stopped) == 1
