"""Which image files were decoded without a fault before: they are not decoded again before every run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hyplearn.data.reading.folders import alone_with, user_cache
from hyplearn.data.reading.places import Place, Stamp, stamp_of
from hyplearn.runs.atomic import write_text

log = logging.getLogger(__name__)

FORMAT = 1
MOST_BYTES = 2**30  # of the file: some ten million images


class Checked:
    """The good files below a folder by size and time of their last change, in a file of the user's cache folder.

    Bad ones are not remembered: what was a fault of the disk may have passed. A file that is damaged, or was written by
    another version of Pillow, is as good as none, and is written anew.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._good: dict[str, Stamp] = {} if path is None else _read(path)
        self._asked: list[tuple[str, Stamp | None]] = []

    @classmethod
    @contextmanager
    def below(cls, root: Path) -> Iterator[Checked]:
        """Give what is known of the files below `root`; nobody else checks them inside the block.

        Where the cache folder cannot be written nothing is known, nothing is kept, and a line of the log says so.
        """
        digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
        try:
            path = user_cache() / "checked" / f"{digest}.json"
            lock = alone_with(path)
            lock.__enter__()
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
            log.info("checked images cannot be remembered (%s): set HYPLEARN_CACHE to a folder", error)
            yield cls(None)
            return
        try:
            yield cls(path)
        finally:
            lock.__exit__(None, None, None)

    def unknown(self, names: Sequence[str], places: Sequence[Place]) -> list[int]:
        """Return the indices of the files that have to be decoded. names: relative to the folder."""
        # Before they are decoded: a file that is written meanwhile counts as changed the next time.
        self._asked = [(name, stamp_of(place)) for name, place in zip(names, places, strict=True)]
        return [i for i, (name, stamp) in enumerate(self._asked) if stamp is None or self._good.get(name) != stamp]

    def remember(self, good: Sequence[int]) -> None:
        """Keep that the files at these indices of the last question were decoded without a fault."""
        found = {name: stamp for name, stamp in (self._asked[i] for i in good) if stamp is not None}
        if self.path is None or not found:
            return
        self._good.update(found)
        content = {"format": FORMAT, "pillow": version("pillow"), "good": self._good}
        try:
            write_text(self.path, json.dumps(content))
        except OSError as error:
            log.info("checked images cannot be remembered: %s", error)


def _read(path: Path) -> dict[str, Stamp]:
    """Return what a file says, nothing where it cannot be used."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        content: Any = json.loads(path.read_bytes())
        if (content["format"], content["pillow"]) != (FORMAT, version("pillow")):
            return {}
        return {str(name): Stamp(int(size), int(time)) for name, (size, time) in content["good"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        log.info("%s cannot be used (%s): all images are checked again", path, error)
        return {}
