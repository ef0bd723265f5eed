"""What can be wrong with data on a disk, told in one message that names files and the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

Read = TypeVar("Read")


class DatasetError(ValueError):
    """Files of a data set are missing, broken, or do not fit what was asked for."""


class BadImageError(DatasetError):
    """Says that one image cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # it crosses from decoding processes


class BadImagesError(DatasetError):
    """All images of a split that cannot be used, each with its path and reason."""

    def __init__(self, bad: Sequence[BadImageError], *, total: int) -> None:
        lines = "\n".join(f"  {error}" for error in bad)
        super().__init__(
            f"{len(bad)} of {total} images cannot be used:\n{lines}\n"
            "repair or remove these files, or set dataset.on_bad_image=skip to train without them"
        )
        self.bad = tuple(bad)


class Problem(NamedTuple):
    """What is wrong with one line of a file, a record of a MATLAB file, or the whole file (line None)."""

    file: Path
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{described(self.file, self.line)}: {self.message}"


def described(file: Path, line: int | None) -> str:
    """A place in words; a record of a MATLAB file is called one."""
    unit = "record" if file.suffix == ".mat" else "line"
    return str(file) if line is None else f"{file}, {unit} {line}"


class ProblemsError(DatasetError):
    """All lines of index files that cannot be used."""

    def __init__(self, problems: Sequence[Problem], name: str) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(
            f"{name}: lines of its index that cannot be used, {len(problems)} of them:\n{lines}\n"
            f"correct them; `hyplearn data verify {name}` names what else is wrong, files included"
        )
        self.problems, self.name = tuple(problems), name

    def __reduce__(self) -> tuple[type[ProblemsError], tuple[tuple[Problem, ...], str]]:
        return type(self), (self.problems, self.name)


def read_all(reads: Iterable[Callable[[], Read]]) -> list[Read]:
    """Call all of `reads`; raise one DatasetError with what is wrong with each of them, a line for each fault."""
    found: list[Read] = []
    faults: list[str] = []
    for read in reads:
        try:
            found.append(read())
        except DatasetError as error:  # noqa: PERF203 - all of them are named
            faults += str(error).splitlines()
    if faults:
        raise DatasetError("\n".join(dict.fromkeys(faults)))
    return found
