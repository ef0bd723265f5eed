"""A command typed by a user: how it ended, and the settings of a run that is over in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Result]

SMALL = ("trainer.accelerator=cpu", "trainer.num_threads=1", "trainer.progress=none", "callbacks.figures=false")
