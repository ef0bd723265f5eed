from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hyplearn.errors import Interrupted
from hyplearn.training.callbacks.stop_signals import StopSignals
from hyplearn.training.fit import fit
from tests.support.runs import spec


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_only_a_request(signum: int, capfd: pytest.CaptureFixture[str]) -> None:
    if signal.getsignal(signum) is signal.SIG_IGN:
        pytest.skip("the tests run under nohup, where a hang-up stays ignored")
    with StopSignals() as signals:
        assert signals.requested is None
        os.kill(os.getpid(), signum)
        assert signals.requested == signum
    assert ("stopping after this batch" in capfd.readouterr().err) == (signum == signal.SIGINT)


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_does_not() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested == signal.SIGTERM
        with pytest.raises(Interrupted) as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.value.exit_status == 130


def test_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what Lightning does in between
        signals.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested == signal.SIGTERM
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


def test_other_threads_may_not_take_signals_and_do_not_try() -> None:
    seen = []

    def work() -> None:
        with StopSignals() as signals:
            signals.install()
            seen.append(signals.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


# A mutex that is locked twice: the call never returns, whatever signals come.
HANGING = """
import ctypes, sys
from hyplearn.training.callbacks.stop_signals import StopSignals
system = (ctypes.PyDLL if sys.argv[1] == "holds the lock" else ctypes.CDLL)(None)
mutex = ctypes.create_string_buffer(256)
with StopSignals(within=float(sys.argv[2])):
    print("ready", flush=True)
    system.pthread_mutex_lock(mutex)
    system.pthread_mutex_lock(mutex)
"""


def hanging(kind: str, within: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, kind, within],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a zeroed mutex is unlocked on Linux")
@pytest.mark.parametrize("kind", ["holds the lock", "lets it go"])
def test_a_process_that_hangs_in_native_code_ends_some_time_after_the_request(kind: str) -> None:
    process = hanging(kind, "1.5")
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert 1 < time.monotonic() - start < 50
    assert "no answer to a signal to stop" in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a zeroed mutex is unlocked on Linux")
def test_a_second_request_ends_it_sooner() -> None:
    process = hanging("holds the lock", "1000")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as schedulers do: one request
    time.sleep(4)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_the_watcher_ends_with_the_context() -> None:
    with StopSignals() as signals:
        watcher = signals._watcher
        assert watcher is not None
        assert watcher.poll() is None
    assert watcher.poll() == 0


def test_nothing_watches_where_nobody_is_to_be_ended() -> None:
    with StopSignals(within=0) as signals:
        assert signals._watcher is None


def test_a_run_has_the_time_that_its_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(StopSignals, "_watch", lambda self: seen.append(self.within))
    fit(spec(tmp_path / "run", trainer={"max_epochs": 0, "stop_within": 7.5}))
    assert seen == [7.5]
