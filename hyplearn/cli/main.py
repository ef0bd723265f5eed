"""`hyplearn train ...` and the other commands: runs one, turns failures into exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hyplearn import __version__
from hyplearn.cli.commands import COMMANDS, function, overview
from hyplearn.cli.parser import Parser, folder
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

PIPE_CLOSED = 141  # as of a process that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 failed, 2 configuration, 3 non-finite, 130/143 stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `hyplearn ... | head` has read enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except SystemExit as shown:  # a parser has printed its help
        return int(shown.code or OK)
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


def _dispatch(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name == "--version":
        print(f"hyplearn {__version__}")
        return OK
    if name in ("-h", "--help"):
        overview().print_help()
        return OK
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}.{nearest(name, COMMANDS)} (hyplearn knows {', '.join(COMMANDS)})")
    run = function(name, COMMANDS[name])
    assert callable(run)
    status: int = run(rest)
    return status


def train(argv: Sequence[str]) -> int:
    """Run `hyplearn train <argv>`."""
    options = train_parser().parse_intermixed_args(list(argv))
    if options.help:
        from hyplearn.cli.help import help_text

        print(help_text())
        return OK
    return _train(options)


def train_parser() -> Parser:
    """Make the parser of `hyplearn train`, whose help is longer than a parser's: it lists groups and keys."""
    parser = Parser("train", "Train, then test once.", add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="the options, and every group with its choices")
    parser.add_argument("--config-dir", type=folder, action="append", default=[], help="further choices for the groups")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of values")
    parser.add_argument("--cfg", choices=["job"], help="check and print the composed configuration, run nothing")
    parser.add_argument("--print-config", action="store_const", const="job", dest="cfg", help="the same as --cfg job")
    from hyplearn.cli.launch_options import add_launching

    add_launching(parser)
    parser.add_argument("overrides", nargs="*", complete="words", help="group=choice and group.key=value")
    return parser


def _train(options: argparse.Namespace) -> int:
    from hyplearn.cli.launch_options import chosen_launcher
    from hyplearn.cli.train import show, train
    from hyplearn.jobs.sweep import sweep

    if options.multirun and options.cfg:
        raise ConfigError("--cfg shows one configuration: leave out -m.")
    launcher = chosen_launcher(options, options.overrides)
    if options.multirun:
        return sweep(options.overrides, extra=options.config_dir, launcher=launcher)
    if options.jobs or options.launcher != "local":
        raise ConfigError("--jobs and --launcher are for several jobs: add -m.")
    run = show if options.cfg else train
    return run(options.overrides, extra=options.config_dir)
