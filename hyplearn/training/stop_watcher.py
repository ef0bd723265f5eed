"""Ends a training process that does not answer a request to stop, because it hangs outside of Python.

Run as a program of its own beside the training: a thread could not, where native code holds the interpreter lock. It
reads the numbers of the signals that reach the training from its standard input, which `signal.set_wakeup_fd` feeds
without Python, and imports nothing but the standard library.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TOGETHER = 2.0  # seconds; schedulers send several signals at once, which are one request
LET_GO = 255  # in place of the number of a signal: the training is over. Its workers may keep the pipe open
GRACE = 3.0  # seconds after a second request, for a process that is about to end


def watch(process: int, patience: float, requests: frozenset[int], message: str) -> None:
    """Return when `process` ends; end it `patience` seconds after a request to stop, or soon after a second one."""
    first = deadline = None
    while os.getppid() == process:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            os.write(2, message.encode(errors="replace"))
            os.kill(process, signal.SIGKILL)
            return
        if not select.select([0], [], [], 0.2)[0]:
            continue
        received = os.read(0, 64)
        if not received or LET_GO in received:
            return
        if not requests.intersection(received):
            continue
        if first is None:
            first, deadline = now, now + patience
        elif now - first > TOGETHER:
            deadline = min(deadline or now + GRACE, now + GRACE)


if __name__ == "__main__":
    for _signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(_signum, signal.SIG_IGN)  # they are for the training
    watch(int(sys.argv[1]), float(sys.argv[2]), frozenset(map(int, sys.argv[3].split(","))), sys.argv[4])
