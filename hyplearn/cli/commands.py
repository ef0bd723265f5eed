"""The commands: what each is for, and the module that runs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from hyplearn.cli.parser import Parser


class Command(NamedTuple):
    """One line about a command, or a kind of figure, and the module of `hyplearn.cli` that runs it.

    The module has a function of the command's name, which takes the words behind it and returns the exit status, and
    `<name>_parser`, which makes its parser. It is imported when one of them is called for.
    """

    about: str
    module: str


COMMANDS = {
    "train": Command("train, then test once (python train.py ... is the same)", "train"),
    "evaluate": Command("test a trained model", "evaluate"),
    "recall": Command("exact Recall@k of embeddings, a run's or your own", "recall"),
    "data": Command("look through the files of a data set, or pack them into shards", "data"),
    "reproduce": Command("the runs of the papers' tables, those that are not finished yet", "reproduce"),
    "report": Command("the papers' tables with what was measured, and the evidence for their claims", "report"),
    "tune": Command("search settings by validation, with equal budgets", "tune"),
    "bench": Command("memory and time of the convolutions of Bdeir Table 4, on this machine", "bench.command"),
    "plot": Command("figures of finished runs", "plot.command"),
    "delta": Command("how far data, or what a network makes of them, are from a tree", "delta"),
    "predict": Command("classes or nearest images of your own pictures", "predict"),
    "embed": Command("their embeddings, for recall and predict", "predict"),
    "search": Command("the pictures of a folder or an index that are nearest to yours", "search"),
    "serve": Command("search over HTTP, with a page to drop a picture on", "serve"),
    "export": Command("weights with their geometry, model card, ONNX, FAISS index", "export"),
    "rerun": Command("a finished run once more, and whether the same comes out", "rerun"),
    "doctor": Command("what is installed, found and wrong here, and what to do", "doctor.command"),
    "wandb-report": Command("the papers' tables as a Weights & Biases dashboard", "wandb_report"),
    "completion": Command("the tab key knows commands, options, groups, choices and keys", "completion"),
}
# Of `hyplearn plot`.
KINDS = {
    "hard-negatives": Command(
        "the nearest images of other classes under two models, side by side (Yue Fig. 1)", "plot.hard_negatives"
    ),
    "grid": Command("a metric over two settings, and models at equal tuning budget (Yue Figs. 2 and 4)", "plot.grid"),
    "weights": Command("weights of the negatives of an anchor, sorted by distance (Yue Fig. 3)", "plot.weights"),
    "embeddings": Command("embeddings in the Poincare disk or by UMAP, and radii by class", "plot.embeddings"),
    "curvature": Command("curvatures over the epochs of one or more runs", "plot.history"),
    "convergence": Command("accuracy over epochs by group of runs, and epochs to an accuracy", "plot.history"),
}

OVERVIEW = """
Hyperbolic networks for images, classifiers and retrieval models, with curvature that is learned."""
EXIT = """
Each command explains itself: hyplearn train --help, hyplearn plot grid --help, ...
Exit status: 0 done, 1 failed, 2 mistake in the configuration, 3 non-finite loss,
130 interrupted, 143 terminated."""


def function(name: str, command: Command, *, ending: str = "") -> object:
    """Return a function of a command's module: the one of its name, with `ending`."""
    found: object = getattr(import_module(f"hyplearn.cli.{command.module}"), name.replace("-", "_") + ending)
    return found


def parser_of(name: str, command: Command) -> Parser:
    """Make the parser of a command, as the command itself makes it."""
    make = function(name, command, ending="_parser")
    assert callable(make)
    parser = make()
    assert isinstance(parser, Parser)
    return parser


def overview(*, complete: bool = False) -> Parser:
    """Make the parser of `hyplearn`, which lists the commands. complete: with the arguments of each, for completion."""
    parser = Parser("", OVERVIEW, more=EXIT)
    parser.add_argument("--version", action="store_true", help="print the version")
    add_commands(parser, COMMANDS, "command", complete=complete)
    return parser


def plot_overview(*, complete: bool = False) -> Parser:
    """Make the parser of `hyplearn plot`, which lists the kinds of figures."""
    about = "Every figure is written as PNG together with the numbers it shows."
    parser = Parser("plot", about, more="hyplearn plot <kind> --help lists the options.")
    add_commands(parser, KINDS, "kind", complete=complete)
    return parser


def add_commands(parser: Parser, commands: dict[str, Command], kind: str, *, complete: bool) -> None:
    """Add commands to a parser, by name; with their own parsers only where they are to be complete."""
    # A parser that is there already is handed through; argparse would make one of its arguments.
    listed: Any = parser.add_subparsers(title=f"{kind}s", metavar=f"<{kind}>", parser_class=_given)  # type: ignore[call-overload]
    for name, command in commands.items():
        if not complete:
            made = Parser(name, command.about)
        elif name == "plot":
            made = plot_overview(complete=True)
        else:
            made = parser_of(name, command)
        listed.add_parser(name, help=command.about, made=made)


def _given(*, made: Parser, **_: object) -> Parser:
    return made
