"""Jobs end with the command that started them, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "HYPLEARN_PARENT"  # the process id of the command that started a job, in the job's environment
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with_parent() -> None:
    """Ask the system for a SIGTERM when the process that started this job ends, if one did. Linux alone offers that.

    Called by the job itself: what runs between fork and exec of a process with threads may deadlock. The processes
    that the job starts answer to the job, so that the variable goes no further.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # it ended before it could be watched
        os.kill(os.getpid(), signal.SIGTERM)
