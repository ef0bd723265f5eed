from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hyplearn.data.errors import DatasetError
from hyplearn.data.reading import download
from hyplearn.data.reading.download import Archive


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server of this machine for the files in tmp_path."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path))) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["zip", "gztar"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, address: str) -> Archive:
    """An archive of folder/file.txt at an address."""
    (tmp_path / "made" / "folder").mkdir(parents=True)
    (tmp_path / "made" / "folder" / "file.txt").write_text("content")
    path = Path(shutil.make_archive(str(tmp_path / "archive"), request.param, tmp_path / "made"))
    return Archive(f"{address}/{path.name}", path.name, hashlib.md5(path.read_bytes()).hexdigest())


def test_an_archive_is_downloaded_and_unpacked(archive: Archive, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    archive.fetch_and_unpack(root, "folder", placement="")
    assert (root / "folder" / "file.txt").read_text() == "content"
    assert sorted(path.name for path in root.iterdir()) == sorted([lock_of(archive), archive.filename, "folder"])


def test_who_asks_for_it_at_the_same_time_waits(archive: Archive, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(archive.fetch_and_unpack, root, "folder", placement="") for _ in range(4)]:
            done.result()
    assert (root / "folder" / "file.txt").read_text() == "content"
    assert sorted(path.name for path in root.iterdir()) == sorted([lock_of(archive), archive.filename, "folder"])


def test_a_folder_that_cannot_be_written_is_told(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/root cannot be written .*Place it by hand\."):
        archive.fetch_and_unpack(tmp_path / "file" / "root", "folder", placement="Place it by hand.")


def lock_of(archive: Archive) -> str:
    """The lock stays: a process that waits for it must not be left with a name that is no more."""
    return f".{archive.filename}.lock"


def test_an_intact_archive_is_not_downloaded_again(archive: Archive, tmp_path: Path) -> None:
    placed = Archive("http://127.0.0.1:9/nowhere", archive.filename, archive.md5)
    placed.fetch_and_unpack(tmp_path, "folder", placement="")
    assert (tmp_path / "folder" / "file.txt").exists()


def test_a_wrong_checksum_is_an_error_and_nothing_is_unpacked(archive: Archive, tmp_path: Path) -> None:
    wrong = Archive(archive.url, archive.filename, "0" * 32)
    with pytest.raises(DatasetError, match=r"cannot be downloaded to .*corrupted.*Place it by hand\."):
        wrong.fetch_and_unpack(tmp_path / "root", "folder", placement="Place it by hand.")
    assert not (tmp_path / "root" / "folder").exists()


def test_an_unpacking_that_fails_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    path = tmp_path / "broken.zip"
    path.write_bytes(b"no archive")
    broken = Archive("http://127.0.0.1:9/nowhere", path.name, hashlib.md5(b"no archive").hexdigest())
    with pytest.raises(DatasetError, match=r"broken.zip cannot be unpacked .*Place it by hand\."):
        broken.fetch_and_unpack(tmp_path, "folder", placement="Place it by hand.")
    assert sorted(path.name for path in tmp_path.iterdir()) == [lock_of(broken), "broken.zip"]


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = []

    def no_network(*args: object) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise OSError("Network is unreachable")

    monkeypatch.setattr(download, "download_url", no_network)
    before = socket.getdefaulttimeout()
    with pytest.raises(DatasetError) as caught:
        Archive("http://example.org/a.zip", "a.zip", "").fetch(tmp_path, placement="Place a.zip there.")
    assert str(caught.value) == (
        f"http://example.org/a.zip cannot be downloaded to {tmp_path} (Network is unreachable). Place a.zip there."
    )
    assert timeouts == [download.TIMEOUT_SECONDS]  # no run waits for minutes
    assert socket.getdefaulttimeout() == before
