"""What stops a command, the one message each gives, and the exit status it means."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

OK, FAILED, CONFIG, NON_FINITE, INTERRUPTED = 0, 1, 2, 3, 130


class ConfigError(Exception):
    """A mistake in what was asked for. Printed as one message, without a traceback; exit status 2."""


class UntrustedPart(ConfigError):  # noqa: N818 - says what it is about
    """A stored configuration names a part of a package that the user has not allowed; `package` is its name."""

    def __init__(self, message: str, package: str) -> None:
        self.package = package
        super().__init__(message)


class JobsFailed(Exception):  # noqa: N818 - says what happened, like StopIteration
    """Jobs of a multirun failed. Their table has been printed: nothing is left to say, exit status 1."""


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
    """Loss, gradients, weights or metrics became infinite or NaN.

    The message says what to try; `report` is the file that says where, None where nobody looked.
    """

    def __init__(self, message: str, report: Path | None) -> None:
        self.report = report
        super().__init__(message)


class ProcessLost(RuntimeError):  # noqa: N818 - says what happened, like StopIteration
    """Another process of a distributed run has ended, so that this one cannot go on."""


def listing(names: Iterable[str]) -> str:
    """`a, b, c` in alphabetical order, or a word for none."""
    return ", ".join(sorted(names)) or "none"


OFFERED = 5  # names that a message lists


def offered(names: Iterable[str], more: str) -> str:
    """`a, b, c, d, e and 7 more: hyplearn ...` in alphabetical order. more: the command that lists all of them."""
    known = sorted(names)
    if len(known) <= OFFERED + 1:  # "and 1 more" would be longer than the name
        return listing(known)
    return f"{', '.join(known[:OFFERED])} and {len(known) - OFFERED} more: {more}"


def nearest(name: str, valid: Iterable[str], *, prefix: str = "") -> str:
    """` Did you mean prefix + x?` for the valid name x closest to `name`, nothing where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" Did you mean {prefix}{close[0]}?" if close else ""


def require(fine: bool, key: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names the key, its value and what is allowed, unless the value is fine."""
    if not fine:
        raise ValueError(f"{key}={value!r} must be {allowed}")


def one_of(name: str, value: object, literal: object) -> None:
    """Raise a ValueError unless `value` is one of the strings of a `Literal` type.

    It names the argument, the value, the choices and the nearest of them. The type in the signature and the check at
    run time are thus one list.
    """
    choices: tuple[str, ...] = get_args(literal)
    if value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}.{hint}")
