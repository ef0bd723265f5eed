"""`outputs/latest`, a link to the run that was begun last, so that the next command needs no copied path."""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("hyplearn")

NAME = "latest"


def mark_latest(run_dir: Path, outputs: Path) -> None:
    """Let the link `<outputs>/latest` lead to `run_dir`, which exists.

    The link is replaced in one step: whoever reads it meets the former run or this one. Where a run lies elsewhere and
    there is no `outputs`, none is made; what is no link is left alone, somebody has named a folder so.
    """
    link, target = outputs / NAME, run_dir.resolve()
    if not outputs.is_dir() or (link.exists() and not link.is_symlink()):
        return
    inside = target.is_relative_to(outputs.resolve())
    written = os.path.relpath(target, outputs.resolve()) if inside else target
    unfinished = outputs / f".{NAME}.{secrets.token_hex(4)}"
    try:
        unfinished.symlink_to(written, target_is_directory=True)
        os.replace(unfinished, link)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        log.warning("%s does not lead to this run: %s", link, error.strerror)
        with suppress(OSError):
            link.unlink(missing_ok=True)  # rather none than one that leads to another run


def followed(path: Path) -> Path:
    """Return `path` with a link named `latest` in it followed: a run goes on where it is, whatever begins meanwhile."""
    for place in (path, *path.parents):
        if place.name == NAME and place.is_symlink():
            real = place.resolve() / path.relative_to(place)
            here = Path.cwd()
            return real.relative_to(here) if real.is_relative_to(here) else real
    return path
