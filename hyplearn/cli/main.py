"""`hyplearn train ...` and the other commands: runs one, turns failures into exit statuses."""

from __future__ import annotations

import errno
import io
import logging
import os
import shlex
import sys
from collections.abc import Sequence

from hyplearn import __version__
from hyplearn.cli.commands import COMMANDS, function, overview
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
    ProcessLost,
    UntrustedPart,
    nearest,
    offered,
)
from hyplearn.runs.regular import NoRegularFile

_SAVED = "What was saved before is whole: a run goes on with resume=<its directory>."
_WAYS_OUT = {
    errno.ENOSPC: f"Make room on that disk, or name another output_dir. {_SAVED}",
    errno.EDQUOT: f"Make room within your quota, or name another output_dir. {_SAVED}",
    errno.EROFS: "Name an output_dir on a disk that can be written to.",
    errno.EACCES: "Name a place that you may read and write, or change its permissions.",
    errno.EPERM: "Name a place that you may read and write, or change its permissions.",
    errno.ENAMETOOLONG: "Name a shorter path.",
    errno.EMFILE: f"Raise the limit of open files (ulimit -n), or take fewer workers. {_SAVED}",
    errno.ENOTDIR: "A file stands where a folder is needed: name another place.",
    errno.EISDIR: "A folder stands where a file is needed: name another place.",
    errno.ENOMEM: f"Take a smaller dataset.batch_size, or fewer workers. {_SAVED}",
}
PIPE_CLOSED = 141  # as of a process that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 failed, 2 configuration, 3 non-finite, 130/143 stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _see_working_directory()
    logging.raiseExceptions = False  # a line that a full disk takes from the log is no reason for a traceback
    _show_any_name()
    try:
        _require_text(arguments)
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `hyplearn ... | head` has read enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except SystemExit as shown:  # a parser has printed its help
        return int(shown.code or OK)
    except UntrustedPart as error:
        line = shlex.join(["hyplearn", *arguments, "--trust", error.package])
        print(f"error: {error}\n  {line}", file=sys.stderr)
        return CONFIG
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIG
    except (DatasetError, ProcessLost) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except Interrupted as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (OSError, MemoryError) as error:
        print(f"error: {_of_the_system(error)}", file=sys.stderr)
        return CONFIG if isinstance(error, NoRegularFile) else FAILED
    except NonFiniteLoss as error:
        report = "" if error.report is None else f"\nreport: {error.report}"
        print(f"error: {error}{report}", file=sys.stderr)
        return NON_FINITE


def _of_the_system(error: OSError | MemoryError) -> str:
    """What the system refused, with the path and a way out."""
    if isinstance(error, MemoryError):
        return f"out of memory: take a smaller dataset.batch_size, or set batch.chunk. {_SAVED}"
    if isinstance(error, NoRegularFile):
        return f"{error.filename} cannot be read: {error.strerror}."
    path = os.fsdecode(error.filename) if error.filename is not None else None
    place = "" if path is None else f"{path.encode(errors='backslashreplace').decode()}: "
    way_out = _WAYS_OUT.get(error.errno or 0, _SAVED)
    return f"{place}{error.strerror or error}. {way_out}"


def _show_any_name() -> None:
    """Let names of files that are not in UTF-8 be printed, with what is not in it as \\udcff."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _require_text(arguments: Sequence[str]) -> None:
    """Raise ConfigError for what is typed and is not in UTF-8: configurations, records and tables name it."""
    typed = [f"the argument {text}" for text in arguments]
    typed += [
        f"{name}={value} in the environment" for name, value in os.environ.items() if name.startswith("HYPLEARN_")
    ]
    for text in [*typed, f"the current folder {os.getcwd()}"]:
        shown = text.encode(errors="backslashreplace").decode()
        if shown != text:
            raise ConfigError(f"{shown} is not in UTF-8: rename the file or folder, or link to it by another name.")


def _see_working_directory() -> None:
    """Let configurations name modules of the folder in which the command is typed, as `python train.py` does."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def _dispatch(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name == "--version":
        print(f"hyplearn {__version__}")
        return OK
    if name in ("-h", "--help"):
        overview().print_help()
        return OK
    if name not in COMMANDS:
        known = offered(COMMANDS, "hyplearn --help")
        raise ConfigError(f"unknown command {name!r}.{nearest(name, COMMANDS)} (hyplearn knows {known})")
    run = function(name, COMMANDS[name])
    assert callable(run)
    status: int = run(rest)
    return status
