"""`hyplearn train ...` and the other commands: runs one, turns failures into exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hyplearn import __version__
from hyplearn.cli.parser import Parser
from hyplearn.data.errors import DatasetError
from hyplearn.errors import (
    CONFIG,
    FAILED,
    INTERRUPTED,
    NON_FINITE,
    OK,
    ConfigError,
    Interrupted,
    NonFiniteLoss,
    nearest,
)

# What runs a command that reads its own arguments: module and function, imported when it is called.
COMMANDS = {
    "recall": "recall:recall",
    "data": "data:data",
    "reproduce": "reproduce:reproduce",
    "report": "report:report",
    "tune": "tune:tune",
    "bench": "bench.command:bench",
    "plot": "plot.command:plot",
    "delta": "delta:delta",
    "predict": "predict:predict",
    "embed": "predict:embed",
    "export": "export:export",
    "rerun": "rerun:rerun",
    "doctor": "doctor.command:doctor",
    "wandb-report": "wandb_report:wandb_report",
    "completion": "completion:completion",
}
PIPE_CLOSED = 141  # as of a process that SIGPIPE ended
KNOWN = ("train", "evaluate", *COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 failed, 2 configuration, 3 non-finite, 130/143 stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _see_working_directory()
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `hyplearn ... | head` has read enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIG
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except Interrupted as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    except NonFiniteLoss as error:
        print(f"error: {error}\nreport: {error.report}", file=sys.stderr)
        return NON_FINITE


def _see_working_directory() -> None:
    """Let configurations name modules of the folder in which the command is typed, as `python train.py` does."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def _dispatch(arguments: list[str]) -> int:
    command, *rest = arguments or ["--help"]
    if command == "--version":
        print(f"hyplearn {__version__}")
        return OK
    if command in ("-h", "--help"):
        return _help(None)
    if command not in KNOWN:
        raise ConfigError(f"unknown command {command!r}.{nearest(command, KNOWN)} (hyplearn knows {', '.join(KNOWN)})")
    if command == "train":
        if any(word in ("-h", "--help") for word in rest):  # before Hydra is imported, which takes its time
            return _help(command)
        from hyplearn.cli.train import train

        return train(rest)
    if command in COMMANDS:
        module, _, function = COMMANDS[command].partition(":")
        status: int = getattr(import_module(f"hyplearn.cli.{module}"), function)(rest)
        return status
    options = _parser(command).parse_intermixed_args(rest)
    return _help(command) if options.help else _evaluate(options)


def _parser(command: str) -> Parser:
    parser = Parser(command)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("overrides", nargs="*")
    return parser


def _help(command: str | None) -> int:
    from hyplearn.cli.help import help_text

    print(help_text(command))
    return OK


def _evaluate(options: argparse.Namespace) -> int:
    from hyplearn.cli.evaluate import evaluate

    if options.run is None:
        raise ConfigError("hyplearn evaluate needs a run directory or a checkpoint.")
    return evaluate(options.run, options.overrides)
