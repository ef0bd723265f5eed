"""The parser of every command: argparse with help of one form, and mistakes told as all others are."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Generator, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from hyplearn.errors import ConfigError, nearest

WIDTH, COLUMN = 100, 26  # of the help, and where the text of an option begins


class _HelpFormatter(argparse.HelpFormatter):
    """Fills the paragraphs of a description, and keeps its indented lines as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=COLUMN, width=WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled: list[str] = []
        for written, lines in groupby(text.splitlines(), key=lambda line: not line or line.startswith(" ")):
            part = list(lines)
            filled += part if written else textwrap.wrap(" ".join(part), width)
        return "\n".join(filled)

    def _iter_indented_subactions(self, action: argparse.Action) -> Generator[argparse.Action, None, None]:
        yield from getattr(action, "_get_subactions", list)()  # names of commands stand as far left as options


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose mistakes are ConfigErrors.

    needs: what to ask for where a positional argument is missing. examples: command lines, each a line of its own.
    more: what stands behind the examples.
    """

    def __init__(
        self,
        command: str,
        description: str,
        *,
        needs: str = "",
        examples: str = "",
        more: str = "",
        add_help: bool = True,
    ) -> None:
        shown = "\n".join(["examples:", *(f"  {line}" for line in examples.strip().splitlines())]) if examples else ""
        super().__init__(
            prog=f"hyplearn {command}".strip(),
            description=description.strip(),
            epilog="\n\n".join(filter(None, [shown, more.strip()])),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=add_help,
        )
        self.needs = needs

    def add_argument(self, *names: str, complete: str | None = None, **settings: Any) -> argparse.Action:
        """Add an argument. complete: what the tab key offers; files and folders where the type is one."""
        action = super().add_argument(*names, **settings)
        if complete is None and action.type in (Path, folder):
            complete = "file" if action.type is Path else "directory"
        if complete is not None:
            action.complete = complete  # type: ignore[attr-defined]  # shtab reads it
        return action

    def add_trust(self) -> None:
        """Add the packages that a stored configuration may name parts of."""
        self.add_argument(
            "--trust",
            action="append",
            default=[],
            metavar="PACKAGE",
            help="an installed package of your own whose parts the stored configuration names, and whose code may run; "
            "can be repeated",
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError, in place of a usage and the end of the process."""
        if self.needs and message.startswith(("the following arguments are required", "one of the arguments")):
            message = f"{self.prog} needs {self.needs}"
        raise ConfigError(f"{message} (see {self.prog} --help)")


# Types of arguments


def folder(text: str) -> Path:
    """Return the folder that an option names."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def at_least(lowest: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {lowest} on")
        return int(text)

    return number


def file_ending_in(*endings: str) -> Callable[[str], Path]:
    """The type of an option that names a file to write."""

    def path(text: str) -> Path:
        if Path(text).suffix not in endings:
            raise argparse.ArgumentTypeError(f"{text!r} must end in {' or '.join(endings)}")
        return Path(text)

    return path


def name_of(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """The type of an argument that is one of known names."""
    names = list(known)

    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(
                f"there is no {kind} {text!r}.{nearest(text, names)} (known: {', '.join(names)})"
            )
        return text

    return name


def list_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes known names, separated by commas; each counts once."""
    names = list(known)

    def chosen(text: str) -> list[str]:
        found = list(dict.fromkeys(text.split(",")))
        unknown = [name for name in found if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} must be of {', '.join(names)}")
        return found

    return chosen
