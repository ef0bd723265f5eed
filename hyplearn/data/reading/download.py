"""Archives from their official addresses, checked, unpacked as a whole or not at all."""

from __future__ import annotations

import shutil
import socket
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import download_url

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading.folders import alone_with

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Archive:
    """A file at `url` and its MD5 sum."""

    url: str
    filename: str
    md5: str

    def fetch(self, folder: Path, *, placement: str) -> Path:
        """Download into `folder`, unless the intact file is there. Raises DatasetError that ends with `placement`.

        Where several processes ask for it at a time one downloads, and the others wait.
        """
        try:
            with alone_with(folder / self.filename):
                return self._fetch(folder, placement)
        except OSError as error:  # from the lock: those of the download have their own message
            raise DatasetError(f"{folder} cannot be written ({error}). {placement}") from error

    def _fetch(self, folder: Path, placement: str) -> Path:
        try:
            with _socket_timeout(TIMEOUT_SECONDS):
                download_url(self.url, folder, self.filename, self.md5)
        except (OSError, RuntimeError) as error:  # no network, no permission, or a wrong checksum
            raise DatasetError(f"{self.url} cannot be downloaded to {folder} ({error}). {placement}") from error
        return folder / self.filename

    def fetch_and_unpack(self, folder: Path, member: str, *, placement: str) -> None:
        """Download and unpack the folder `member` of the archive into `folder`."""
        try:
            with alone_with(folder / self.filename):
                if not (folder / member).exists():  # another process may have brought it meanwhile
                    self._unpack(self._fetch(folder, placement), folder, member, placement)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be written ({error}). {placement}") from error

    @staticmethod
    def _unpack(archive: Path, folder: Path, member: str, placement: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
            # An interrupted unpacking must not look like a data set, so the finished folder is moved into place.
            try:
                _unpack(archive, temporary)
                (Path(temporary) / member).rename(folder / member)
            except (OSError, EOFError, shutil.ReadError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
                raise DatasetError(f"{archive} cannot be unpacked ({error}). {placement}") from error


def _unpack(archive: Path, folder: str) -> None:
    if archive.suffix == ".zip":
        shutil.unpack_archive(archive, folder)
    else:
        shutil.unpack_archive(archive, folder, filter="data")  # no links or paths out of the folder


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """A firewall that drops packets must not hold up a run for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
