"""What stops a command, the one message each gives, and the exit status it means."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

OK, FAILED, CONFIG, NON_FINITE, INTERRUPTED = 0, 1, 2, 3, 130


class ConfigError(Exception):
    """A mistake in what was asked for. Printed as one message, without a traceback; exit status 2."""


def listing(names: Iterable[str]) -> str:
    """`a, b, c` in alphabetical order, or a word for none."""
    return ", ".join(sorted(names)) or "none"


def nearest(name: str, valid: Iterable[str], *, prefix: str = "") -> str:
    """` Did you mean prefix + x?` for the valid name x closest to `name`, nothing where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" Did you mean {prefix}{close[0]}?" if close else ""
