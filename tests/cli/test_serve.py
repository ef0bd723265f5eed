from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from hyplearn.cli import serve as command_module
from hyplearn.evaluation import store
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.neighbours import Search, neighbours
from tests.support.pictures import write_unseen_digits

PROGRAM = "import sys; from hyplearn.cli.main import main; sys.exit(main(sys.argv[1:]))"
SMALL_LIMITS = ("--max-bytes", "40000", "--max-pixels", "20000", "--max-rows", "125", "--max-waiting", "8")


class Served(NamedTuple):
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    address: str


@contextlib.contextmanager
def serving(*arguments: str, folder: Path) -> Iterator[Served]:
    """`hyplearn serve` on a free port, ended by SIGTERM where the test has not ended it."""
    typed = [sys.executable, "-c", PROGRAM, "serve", *arguments, "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(typed, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            found = re.search(r"serving at (http://\S+)", line)
            if found is not None:
                break
        else:
            raise AssertionError("".join(lines) + (process.stderr.read() if process.stderr else ""))
        yield Served(process, found[1])
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unseen_digits(tmp_path_factory.mktemp("pictures"), each=24)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, retrieval_run: Path, pictures: Path) -> Path:
    from hyplearn.cli.main import main

    folder = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", str(retrieval_run), "--output", str(folder), "--index", "--gallery", str(pictures)]) == 0
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    with serving(str(model), *SMALL_LIMITS, folder=tmp_path_factory.mktemp("served")) as service:
        yield service


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
        yield client


def png(width: int = 8, height: int = 8, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(width * height, dtype=np.uint32).astype(np.uint8).reshape(height, width)).save(
        stream, "PNG", **options
    )
    return stream.getvalue()


def test_answers_are_those_of_the_library(client: httpx.Client, model: Path, pictures: Path) -> None:
    stored = store.load(model / "gallery.npz")
    for row in (0, 30, 77):
        content = (pictures / stored.paths[row]).read_bytes()
        answer = client.post("/search", params={"k": 4}, content=content).json()
        near = neighbours(stored.embeddings.select(torch.tensor([row])), stored.embeddings, 4)
        assert [hit["row"] for hit in answer["neighbours"]] == near.indices[0].tolist()
        assert [hit["image"] for hit in answer["neighbours"]] == [stored.paths[i] for i in near.indices[0].tolist()]
        np.testing.assert_allclose([hit["distance"] for hit in answer["neighbours"]], near.distances[0], atol=2e-5)
        (space,) = client.post("/embed", content=content).json()["spaces"]
        np.testing.assert_allclose(space["point"], stored.points[0][row], atol=1e-5)
        assert Metric(space["kind"], space["c"], space["weight"]) == stored.metrics[0]


def test_the_page_and_its_thumbnails(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    nonce = re.search(r"script-src 'nonce-([^']+)'", page.headers["content-security-policy"])
    assert nonce is not None
    assert page.text.count(f'nonce="{nonce[1]}"') == 2
    assert "120 pictures, compared under poincare" in page.text
    picture = client.get("/thumbnail/3")
    assert picture.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(picture.content)) as opened:
        assert opened.size == (8, 8)
    assert client.get("/thumbnail/9999").status_code == 404


def test_health_and_metrics(client: httpx.Client) -> None:
    facts = client.get("/health").json()
    assert facts["status"] == "ok"
    assert facts["limits"] == {"size": 40000, "pixels": 20000, "rows": 125, "k": 100}
    client.get("/nowhere")
    before, after = (_searches(client) for _ in range(2))
    assert before == after
    client.post("/search", content=b"")
    assert _searches(client) == before + 1
    assert f"hyplearn_gallery_pictures {facts['gallery']}" in client.get("/metrics").text


def _searches(client: httpx.Client) -> int:
    found = re.search(r'hyplearn_requests_total\{path="/search",status="400"\} (\d+)', client.get("/metrics").text)
    return 0 if found is None else int(found[1])


def bomb() -> bytes:
    """A picture of few bytes and many pixels."""
    stream = io.BytesIO()
    Image.new("L", (6000, 6000)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def of_long_text() -> bytes:
    """A PNG whose packed text comes to 3 MB."""
    information = PngImagePlugin.PngInfo()
    information.add_text("a", "b" * 3_000_000, zip=True)
    return png(pnginfo=information)


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (400, b"", "the body is empty"),
        (400, b"no picture", "no picture, or of an unknown format"),
        (400, png()[:50], "cannot be read"),
        (400, png(90, 90)[:-200], "cannot be read"),
        (400, b"\x89PNG\r\n\x1a\n" + bytes(200), "cannot be read|no picture"),
        (400, b"GIF89a" + b"\xff" * 300, "cannot be read|no picture"),
        (400, b"\xff\xd8\xff\xe0" + b"\x00" * 500, "cannot be read|no picture"),
        (400, b"RIFF\x00\x00\x00\x00WEBPVP8 " + b"\x01" * 100, "cannot be read|no picture"),
        (400, b"II*\x00" + b"\xff" * 200, "cannot be read|no picture"),
        (400, b"\x80\x04\x95" + bytes(100), "no picture"),
        (400, of_long_text(), "cannot be read|no picture"),
        (413, bomb(), "more than 20,000: make it smaller"),
        (413, bytes(50_000), "more than 40,000 bytes"),
    ],
)
@pytest.mark.parametrize("path", ["/search", "/embed", "/add"])
def test_what_is_no_good_picture_is_told(
    client: httpx.Client, path: str, status: int, content: bytes, words: str
) -> None:
    answer = client.post(path, content=content)
    assert answer.status_code == status, answer.text
    assert re.search(words, answer.json()["error"]), answer.text
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("k", ["0", "101", "-1", "many", "1e3", "99999999999999999999", "²"])
def test_numbers_of_neighbours_have_a_range(client: httpx.Client, k: str) -> None:
    answer = client.post("/search", params={"k": k}, content=png())
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("k=")


def test_an_upload_is_read_no_further_than_allowed(client: httpx.Client) -> None:
    """Without a length, too: the client is cut off."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 10_000
            yield bytes(10_000)

    try:
        answer = client.post("/search", content=endless())
        assert answer.status_code == 413
    except httpx.TransportError:  # it was still sending
        pass
    assert sent < 50_000_000
    assert client.get("/health").status_code == 200


def test_other_kinds_of_requests_are_told(client: httpx.Client) -> None:
    assert client.get("/search").status_code == 405
    assert client.get("/etc/passwd").json() == {"error": "Not Found"}
    assert client.get("/thumbnail/-1").status_code == 404
    answer = client.post("/search", files={"file": png()})
    assert answer.status_code == 415
    assert "curl --data-binary" in answer.json()["error"]


def test_pages_of_other_sites_are_refused(client: httpx.Client) -> None:
    answer = client.get("/health", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    answer = client.post("/add", content=png(), headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    answer = client.post("/search", content=png(), headers={"Origin": str(client.base_url).rstrip("/")})
    assert answer.status_code == 200


def test_many_clients_at_once_get_the_answers_of_one(served: Served, pictures: Path) -> None:
    """No answer is lost, and none is that of another; where too many wait, they are told to come back."""
    files = sorted(pictures.rglob("*.png"))[:40]
    contents = [file.read_bytes() for file in files]
    with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
        alone = [_names(client.post("/search?k=3", content=content)) for content in contents]
    statuses: list[int] = []
    differing: list[int] = []

    def work(number: int) -> None:
        with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as client:
            for step in range(20):
                which = (7 * number + step) % len(contents)
                answer = client.post("/search?k=3", content=contents[which])
                statuses.append(answer.status_code)
                if answer.status_code == 200 and _names(answer) != alone[which]:
                    differing.append(which)
                if answer.status_code == 503:
                    assert answer.headers["retry-after"] == "1"
                    time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(statuses) == 320
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 100
    assert differing == []


def _names(answer: httpx.Response) -> list[str]:
    return [hit["image"] for hit in answer.json()["neighbours"]]


def test_pictures_are_added_up_to_the_limit_and_stored_at_the_end(
    model: Path, tmp_path: Path, retrieval_run: Path, command
) -> None:
    with serving(str(model), "--max-rows", "122", "--save", "kept.npz", folder=tmp_path) as service:
        with httpx.Client(base_url=service.address, timeout=60, trust_env=False) as client:
            assert client.post("/add?name=mine&class=new", content=png()).json() == {"row": 120, "gallery": 121}
            (hit,) = client.post("/search?k=1", content=png()).json()["neighbours"]
            assert (hit["image"], hit["class"], hit["thumbnail"]) == ("mine", "new", "/thumbnail/120")
            assert client.get("/thumbnail/120").status_code == 200
            assert client.post("/add", params={"name": "x" * 201}, content=png()).status_code == 400
            assert client.post("/add", params={"name": "a\nb"}, content=png()).status_code == 400
            assert client.post("/add", content=png(9, 9)).json()["row"] == 121
            full = client.post("/add", content=png())
            assert full.status_code == 409
            assert "--max-rows allows no more" in full.json()["error"]
        service.process.send_signal(signal.SIGTERM)
        out, err = service.process.communicate(timeout=60)
        assert service.process.returncode == 0, err
        assert "122 pictures, 2 of them added; written to kept.npz" in out
        assert err == ""
    stored = store.load(tmp_path / "kept.npz")
    assert stored.paths[120:] == ("mine", "added 121")
    assert stored.class_names[int(stored.labels[120])] == "new"
    Path("query.png").write_bytes(png())
    answer = command("search", str(retrieval_run), "query.png", "--in", str(tmp_path / "kept.npz"), "--k", "1")
    assert "mine" in answer.out


def test_control_c_finishes_what_was_begun(model: Path, tmp_path: Path) -> None:
    with serving(str(model), folder=tmp_path) as service:
        host, port = service.address.removeprefix("http://").split(":")
        content = png()
        with socket.create_connection((host, int(port)), timeout=60) as begun:
            head = f"POST /search?k=1 HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(content)}\r\n\r\n"
            begun.sendall(head.encode() + content[:20])
            time.sleep(0.5)
            service.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            begun.sendall(content[20:])
            answer = begun.recv(65536).decode()
        assert answer.startswith("HTTP/1.1 200 OK")
        out, err = service.process.communicate(timeout=60)
        assert service.process.returncode == 0, err
        assert "ended: nothing is being answered any more" in out


def test_it_listens_on_this_machine_alone(served: Served) -> None:
    assert served.address.startswith("http://127.0.0.1:")


def test_what_does_not_fit_is_told(command, monkeypatch: pytest.MonkeyPatch, model: Path, classifier_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = command("serve", str(model), "--port", port)
        assert answer.status == 2
        assert f"--port {port} cannot be listened on (Address already in use): name another" in answer.err
    assert "hyplearn serve needs an export" in command("serve").err
    assert "--host no.such.name.invalid" in command("serve", str(model), "--host", "no.such.name.invalid").err
    answer = command("serve", str(model), "--port", "0", "--max-rows", "5")
    assert (answer.status, "the gallery holds 120 pictures already" in answer.err) == (2, True)
    answer = command("serve", str(classifier_run), "--port", "0")
    assert (answer.status, "name the images to search in with" in answer.err) == (2, True)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        command_module.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    answer = command("serve", str(model))
    assert (answer.status, "needs uvicorn: pip install 'hyplearn[serve]'" in answer.err) == (2, True)


def test_a_search_made_ready_once_answers_any_query() -> None:
    points = torch.randn(500, 6, dtype=torch.float64)
    points[100:180] = points[0]  # duplicates, which are searched once
    for metric in (Metric("lorentz", 0.7), Metric("sphere"), Metric("euclidean")):
        gallery, query = Embeddings(points, metric), Embeddings(torch.randn(9, 6, dtype=torch.float64), metric)
        ready = Search(gallery.select(slice(0, 1)), gallery).asked(query)
        found, expected = ready.nearest(torch.arange(9), 7), neighbours(query, gallery, 7)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.distances, expected.distances)
