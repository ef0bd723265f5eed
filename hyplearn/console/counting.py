"""How far a command is: a bar on a terminal, a line now and then elsewhere, all of it on the standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 30.0  # between two lines


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with how many more are done, and the total."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda more, total: bar.update(task, advance=more, total=total)


def _lines(title: str) -> Callable[[int, int], None]:
    done, said = 0, time.monotonic()

    def tell(more: int, total: int) -> None:
        nonlocal done, said
        done += more
        if time.monotonic() - said >= PLAIN_SECONDS:
            said = time.monotonic()
            print(f"{title}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return tell
