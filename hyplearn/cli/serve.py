"""`hyplearn serve`: search over HTTP."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.cli import search as searching
from hyplearn.cli.parser import Parser, at_least
from hyplearn.errors import OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.inference.service import Service

DESCRIPTION = """
Answer over HTTP until Ctrl-C or SIGTERM. A picture is sent as it is, as the body of a POST:
  GET  /                    a page to drop a picture on
  POST /search?k=5          its neighbours: image, class, distance
  POST /embed               its embedding
  POST /add?name=&class=    puts it into the gallery
  GET  /health, /metrics    what is served; counts in Prometheus' format
What cannot be used is answered by a status from 400 to 499 and {"error": "..."}. Nobody is asked who they are:
the service listens on this machine alone unless --host says otherwise."""
PACKAGES = ("starlette", "uvicorn")
SHUTDOWN_SECONDS = 10
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(argv: Sequence[str]) -> int:
    """Serve until a signal ends it. Raises ConfigError."""
    options = serve_parser().parse_args(list(argv))
    _check(options)
    with writing(options.save), _listening(options.host, options.port) as listener:
        service = _service(options)
        _run(options, service, listener)
        if options.save is not None:
            service.save(options.save)
            print(f"{len(service.gallery.names):,} pictures, {service.added} of them added; written to {options.save}")
    return OK


def serve_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "serve",
        DESCRIPTION,
        needs="an export: hyplearn serve models/birds",
        examples="""
hyplearn serve models/birds
hyplearn serve models/birds --port 9000 --save birds.npz
curl --data-binary @bird.jpg 'http://127.0.0.1:8000/search?k=5'""",
        more="Needs pip install 'hyplearn[serve]'.",
    )
    parser.add_argument("run", type=Path, help="a folder of `hyplearn export --index`, or a run directory")
    parser.add_argument(
        "--in",
        dest="place",
        type=Path,
        help="a folder of pictures or a file of `hyplearn embed` to search in, in place of the export's index",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; %(default)s, this machine alone")
    parser.add_argument("--port", type=at_least(0), default=8000, help="%(default)s; 0 takes a free one")
    parser.add_argument(
        "--open-set",
        type=searching.threshold,
        metavar="DISTANCE",
        help="neighbours beyond it are not known; auto: measured on the gallery, see hyplearn search",
    )
    parser.add_argument(
        "--save", type=_embeddings_file, help="the file that the gallery is written to when the service ends"
    )
    parser.add_argument("--max-bytes", type=at_least(1), default=20_000_000, help="of a picture as sent; %(default)s")
    parser.add_argument("--max-pixels", type=at_least(1), default=50_000_000, help="of a picture; %(default)s")
    parser.add_argument("--max-rows", type=at_least(1), default=1_000_000, help="of the gallery; %(default)s")
    parser.add_argument("--max-waiting", type=at_least(1), default=64, help="pictures at the same time; %(default)s")
    parser.add_argument("--pictures", type=Path, help="the folder in which the gallery's pictures lie, to show them")
    parser.add_trust()
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="%(default)s")
    parser.set_defaults(batch_size=None, skip_unreadable=False, output=None)
    return parser


def _embeddings_file(text: str) -> Path:
    if Path(text).suffix != ".npz":
        raise argparse.ArgumentTypeError(f"{text!r} must end in .npz")
    return Path(text)


def _check(options: argparse.Namespace) -> None:
    """What can be told before anything is read."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"hyplearn serve needs {', '.join(missing)}: pip install 'hyplearn[serve]'.")
    if options.port > 65535:
        raise ConfigError(f"--port {options.port} must be from 0 to 65535.")
    searching.check_places(options)


def _listening(host: str, port: int) -> socket.socket:
    """A socket on the address, taken before the model is read. Raises ConfigError where it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        # what Python adds to the system's words names the address once more
        of_name = isinstance(error, socket.gaierror) or error.errno is None
        reason = error.strerror if of_name else os.strerror(error.errno or 0)
        raise ConfigError(
            f"--host {host} --port {port} cannot be listened on ({reason}): name another with --port."
        ) from error


def _service(options: argparse.Namespace) -> Service:
    """The model with its gallery."""
    from hyplearn.inference.searching import own_threshold
    from hyplearn.inference.service import Limits, Service
    from hyplearn.inference.thumbnails import read_thumbnails

    opened = searching.open_model(options)
    gallery = searching.open_gallery(options, opened)
    if len(gallery.names) > options.max_rows:
        raise ConfigError(
            f"--max-rows {options.max_rows:,}: the gallery holds {len(gallery.names):,} pictures already."
        )
    try:
        thumbnails = read_thumbnails(opened.folder) if options.place is None else []
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
    threshold = own_threshold(gallery) if options.open_set == searching.AUTO else options.open_set
    limits = Limits(size=options.max_bytes, pixels=options.max_pixels, rows=options.max_rows)
    return Service(opened, gallery, thumbnails, limits=limits, threshold=threshold)


def _run(options: argparse.Namespace, service: Service, listener: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM; what is being answered is finished."""
    import uvicorn

    from hyplearn.inference.http_service import application

    local = options.host in LOOPBACK
    config = uvicorn.Config(
        application(service, waiting=options.max_waiting, local=local),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        limit_concurrency=16 * options.max_waiting,
        h11_max_incomplete_event_size=16_384,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    if not local:
        print(f"listening on {host}: whoever reaches this machine can search and add pictures")
    print(f"{len(service.gallery.names):,} pictures under {service.gallery.embeddings}; {service.opened.selection}")
    print(f"serving at http://{shown}:{port} (Ctrl-C ends it)", flush=True)
    # uvicorn raises the signal that ended it once more; an end that was asked for is no failure
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print("ended: nothing is being answered any more", flush=True)
