"""Files that are read are files: a named pipe, a socket or a device in their place is refused before it is opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class NoRegularFile(OSError):  # noqa: N818 - says what it is about
    """A named pipe, a socket, a device or a folder lies where a file is to be read, which could last for ever."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, and a file is needed", str(path))


def check_regular(path: Path) -> None:
    """Raise NoRegularFile for what is no file, for libraries that open `path` themselves. Links are followed.

    What does not exist, or may not be looked at, raises the OSError of the system.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise NoRegularFile(path, _KINDS.get(kind, "no file"))


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read. Raises NoRegularFile for anything else, without waiting for somebody to write to it."""
    check_regular(path)
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")  # it may have become a pipe
