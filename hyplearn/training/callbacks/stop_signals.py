"""SIGTERM and Ctrl-C as a request that training answers at the next point from which it can continue exactly."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

from hyplearn.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTICE = b"\nstopping after this batch; a second Ctrl-C stops at once, without a checkpoint\n"


class StopSignals:
    """A context in which SIGTERM and SIGINT set `requested` and nothing else happens.

    A second Ctrl-C raises Interrupted where it is; a second SIGTERM does not, because schedulers send several.
    Other signals stay as they are: Lightning answers SIGUSR1 under SLURM. Outside the main thread, where Python allows
    no handlers, the context does nothing.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.getsignal(signum) for signum in SIGNALS}
            self.install()
        return self

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

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.requested is not None and signum == signal.SIGINT:
            raise Interrupted(signum)
        self.requested = signum
        if signum == signal.SIGINT:
            os.write(2, NOTICE)  # print and logging may be in the middle of a line, where they must not be re-entered
