"""How far a search has come: a bar on a terminal with lines above it, lines alone elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Board:
    """A context in which lines and progress are shown."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(markup=False, highlight=False)
        self._progress = Progress(*columns, console=console) if sys.stdout.isatty() else None
        self._task = None if self._progress is None else self._progress.add_task("trials", total=None)

    def __enter__(self) -> Board:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def total(self, count: int) -> None:
        """Say how many trials there are to run."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=count)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._progress is None:
            print(text, flush=True)
        else:
            self._progress.console.print(text, soft_wrap=True)

    def epoch(self, label: str, number: int, epoch: int) -> None:
        """Show where a running trial stands."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{label} trial {number} epoch {epoch}")

    def advance(self) -> None:
        """Count one trial as over."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)
