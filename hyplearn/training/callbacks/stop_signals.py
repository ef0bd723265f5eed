"""SIGTERM, SIGHUP and Ctrl-C as a request that training answers at the next point from which it continues exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

from hyplearn.errors import Interrupted
from hyplearn.training import stop_watcher

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
ALWAYS = (signal.SIGTERM, signal.SIGINT)  # answered in the background of a script, too, which ignores Ctrl-C
WITHIN = 60.0  # seconds from a request to the end by force
NOTICE = b"\nstopping after this batch; a second Ctrl-C stops at once, without a checkpoint\n"


class StopSignals:
    """A context in which SIGTERM, SIGHUP and SIGINT set `requested` and nothing else happens.

    A second Ctrl-C raises Interrupted where it is; a second SIGTERM does not, because schedulers send several. A
    process that hangs in native code never gets to answer: `within` seconds after the first request (0 for never), or 3
    after a second one that comes later, a process beside it ends it with SIGKILL. The checkpoint of the last whole
    epoch stays. A hang-up that is ignored, as under nohup, stays so.
    Other signals stay as they are: Lightning answers SIGUSR1 under SLURM. Outside the main thread, where Python allows
    no handlers, the context does nothing.
    """

    def __init__(self, *, within: float = WITHIN) -> None:
        self.within = within
        self.requested: int | None = None
        self._before: dict[int, object] = {}
        self._watcher: subprocess.Popen[bytes] | None = None
        self._wakeup = -1

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            found = {signum: signal.getsignal(signum) for signum in SIGNALS}
            ignored = {signum for signum, before in found.items() if before is signal.SIG_IGN and signum not in ALWAYS}
            self._before = {signum: before for signum, before in found.items() if signum not in ignored}
            self.install()
            self._watch()
        return self

    def _watch(self) -> None:
        """Start the process that ends this one where it does not answer."""
        if self.within == 0 or os.name != "posix":
            return
        said = f"\nno answer to a signal to stop for {self.within:g} s or to a second one: ended by force\n"
        requests = ",".join(str(int(signum)) for signum in SIGNALS)
        command = [sys.executable, "-I", "-S", str(Path(stop_watcher.__file__)), str(os.getpid()), str(self.within)]
        self._watcher = subprocess.Popen([*command, requests, said], stdin=subprocess.PIPE, start_new_session=True)
        assert self._watcher.stdin is not None
        os.set_blocking(self._watcher.stdin.fileno(), False)
        self._wakeup = signal.set_wakeup_fd(self._watcher.stdin.fileno(), warn_on_full_buffer=False)

    def install(self) -> None:
        """Take the signals over. Called again once Lightning, which registers a handler of its own, has begun."""
        for signum in self._before:
            signal.signal(signum, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before = {}
        if self._watcher is not None:
            signal.set_wakeup_fd(self._wakeup)
            assert self._watcher.stdin is not None
            with suppress(OSError):
                os.write(self._watcher.stdin.fileno(), bytes([stop_watcher.LET_GO]))
            with suppress(OSError):
                self._watcher.stdin.close()
            self._watcher.wait()
            self._watcher = None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.requested is not None and signum == signal.SIGINT:
            raise Interrupted(signum)
        self.requested = signum
        if signum == signal.SIGINT:
            os.write(2, NOTICE)  # print and logging may be in the middle of a line, where they must not be re-entered
