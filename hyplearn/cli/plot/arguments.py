"""What the commands that draw share: the parser, titles, and how they say what was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyplearn.cli.parser import Parser

FIGURES = Path("plots")


class FigureParser(Parser):
    """The parser of a kind of figure, with what several kinds take."""

    def __init__(self, kind: str, description: str, *, needs: str, examples: str) -> None:
        super().__init__(f"plot {kind}", description, needs=needs, examples=examples)

    def add_runs(self, about: str = "run directories, or folders that hold some at any depth") -> None:
        """Add the runs to draw, one or more."""
        self.add_argument("runs", nargs="+", type=Path, metavar="run", complete="directory", help=about)

    def add_output(self, about: str, default: Path | None = FIGURES) -> None:
        """Add the folder of the figures."""
        self.add_argument("--output", type=Path, metavar="DIR", default=default, complete="directory", help=about)

    def add_seed(self, about: str) -> None:
        """Add the seed of what is drawn at random."""
        self.add_argument("--seed", type=int, default=0, help=f"{about}; %(default)s")

    def add_groups(self) -> None:
        """Add the keys that make groups of runs."""
        self.add_argument(
            "--by",
            type=lambda text: text.split(","),
            metavar="KEYS",
            help="what makes groups: keys of the configuration, as manifold.learned or choices.optim,model.width; by "
            "default all settings but the seed",
        )


def titled(text: str, configs: Iterable[Mapping[str, Any]]) -> str:
    """Return the title of a figure, which says so where small data stood in for the real ones."""
    return f"SMOKE RUNS (small data) · {text}" if any(config.get("scale") == "smoke" for config in configs) else text


def tell(written: Sequence[Path]) -> None:
    """Print the files that were written."""
    for path in written:
        print(f"written to {path}")
