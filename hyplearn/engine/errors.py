"""The two ways in which a run ends before its time. No heavy import: the command line maps them to exit statuses."""

from __future__ import annotations

import signal
from pathlib import Path


class Interrupted(BaseException):
    """A signal ended the run; `checkpoint` continues it, None if nothing was trained yet.

    Not an `Exception`, as KeyboardInterrupt is none: code that survives one failed run must not survive this.
    """

    def __init__(self, signum: int, checkpoint: Path | None = None) -> None:
        self.signum, self.checkpoint = signum, checkpoint
        way_on = f"continue with resume={checkpoint}" if checkpoint else "no checkpoint was written"
        super().__init__(f"stopped by {signal.Signals(signum).name}; {way_on}")

    @property
    def exit_status(self) -> int:
        """What a shell reports for this signal: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signum


class NonFiniteLoss(RuntimeError):  # noqa: N818 - says what happened, like StopIteration
    """Loss or gradients became infinite or NaN. `report` is the file that says where; the message says what to try."""

    def __init__(self, message: str, report: Path) -> None:
        self.report = report
        super().__init__(message)
