from __future__ import annotations

import os
import signal
import threading

import pytest

from hyplearn.errors import Interrupted
from hyplearn.training.callbacks.stop_signals import StopSignals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_only_a_request(signum: int, capfd: pytest.CaptureFixture[str]) -> None:
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
