"""What the parsers of the commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from hyplearn.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Without abbreviations and automatic help; reports what it cannot read as every other mistake is reported."""

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"hyplearn {command}", add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="store_true")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def folder(text: str) -> Path:
    """The type of an option that names a folder."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)
