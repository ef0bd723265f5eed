"""The service over HTTP: routes, limits, and answers that are JSON with words whenever something is refused."""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hyplearn.inference.service import TOO_LARGE, Refused, Service
from hyplearn.inference.service_page import page

LOG = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WORKERS = 2  # threads that decode, compute and search
DRAINED = 4  # times the allowed size that is read of a body that is too large
BODY_SECONDS = 30.0  # in which an upload has to arrive
BUSY, NOT_ALLOWED, TOO_SLOW, WRONG_KIND = 503, 403, 408, 415
POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; style-src 'nonce-{0}'; script-src 'nonce-{0}'"
)

Handler = Callable[[Request], Awaitable[Response]]
Result = TypeVar("Result")


class Counts:
    """What /metrics tells, counted on the event loop alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.in_flight = 0

    def text(self, gallery: int) -> str:
        """Return the counts in Prometheus' text format."""
        lines = ["# TYPE hyplearn_requests_total counter"]
        lines += [
            f'hyplearn_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        lines.append("# TYPE hyplearn_request_seconds_total counter")
        lines += [
            f'hyplearn_request_seconds_total{{path="{path}"}} {n:.6f}' for path, n in sorted(self.seconds.items())
        ]
        lines += ["# TYPE hyplearn_in_flight gauge", f"hyplearn_in_flight {self.in_flight}"]
        lines += ["# TYPE hyplearn_gallery_pictures gauge", f"hyplearn_gallery_pictures {gallery}"]
        return "\n".join(lines) + "\n"


def application(service: Service, *, waiting: int, local: bool) -> Starlette:
    """Return the application. waiting: uploads at the same time. local: only names of this machine are answered to."""
    return _Application(service, waiting, local).starlette()


class _Application:
    def __init__(self, service: Service, waiting: int, local: bool) -> None:
        self.service, self.waiting, self.local = service, waiting, local
        self.counts = Counts()
        self.uploads = 0
        self.threads: anyio.CapacityLimiter | None = None

    def starlette(self) -> Starlette:
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/", self.page),
            ("GET", "/health", self.health),
            ("GET", "/metrics", self.metrics),
            ("GET", "/thumbnail/{row:int}", self.thumbnail),
            ("POST", "/embed", self.embed),
            ("POST", "/search", self.search),
            ("POST", "/add", self.add),
        ]
        return Starlette(
            routes=[
                Route(path, self._counted(path.partition("{")[0], handler), methods=[method])
                for method, path, handler in routes
            ],
            exception_handlers={HTTPException: _told, Exception: _failed},
        )

    async def page(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        headers = {"Content-Security-Policy": POLICY.format(nonce)}
        return Response(page(self.service.facts(), nonce=nonce), media_type="text/html", headers=headers)

    async def health(self, request: Request) -> Response:
        return JSONResponse(self.service.facts())

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.counts.text(len(self.service.gallery.names)))

    async def thumbnail(self, request: Request) -> Response:
        content = await self._in_thread(functools.partial(self.service.thumbnail, request.path_params["row"]))
        return Response(content, media_type="image/jpeg")

    async def embed(self, request: Request) -> Response:
        return await self._upload(request, self.service.embed_json)

    async def search(self, request: Request) -> Response:
        return await self._upload(request, functools.partial(self.service.search, k=_number(request, "k", 5)))

    async def add(self, request: Request) -> Response:
        name, label = (request.query_params.get(key, "") for key in ("name", "class"))
        return await self._upload(request, functools.partial(self.service.add, name=name, label=label))

    async def _upload(self, request: Request, answer: Callable[[bytes], dict[str, Any]]) -> Response:
        """Read the picture and answer in a thread; no more than `waiting` at the same time."""
        if self.uploads >= self.waiting:
            await self._body(request, keep=False)
            raise HTTPException(BUSY, f"{self.waiting} pictures are waiting: try again", {"Retry-After": "1"})
        self.uploads += 1
        try:
            content = await self._body(request)
            if request.headers.get("content-type", "").startswith("multipart/"):
                raise Refused(WRONG_KIND, "send the bytes of the picture alone: curl --data-binary @picture.jpg")
            return JSONResponse(await self._in_thread(functools.partial(answer, content)))
        finally:
            self.uploads -= 1

    async def _body(self, request: Request, *, keep: bool = True) -> bytes:
        """The body, empty unless it is to be kept. Raises Refused where it is larger than allowed.

        A little more is read and dropped, since a client that is cut off while it sends does not see the answer.
        """
        largest = self.service.limits.size
        too_large = Refused(TOO_LARGE, f"the body has more than {largest:,} bytes: make the picture smaller")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > DRAINED * largest:
            raise too_large
        parts, size = [], 0
        try:
            with anyio.fail_after(BODY_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size > DRAINED * largest:
                        raise too_large
                    if keep and size <= largest:
                        parts.append(part)
        except TimeoutError as error:
            raise Refused(TOO_SLOW, f"the picture did not arrive within {BODY_SECONDS:.0f} s") from error
        except ClientDisconnect as error:
            raise Refused(400, "the client went away") from error
        if size > largest:
            raise too_large
        return b"".join(parts)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self.threads is None:  # it belongs to the event loop
            self.threads = anyio.CapacityLimiter(WORKERS)
        return await anyio.to_thread.run_sync(work, limiter=self.threads)

    def _counted(self, path: str, handler: Handler) -> Handler:
        async def run(request: Request) -> Response:
            started, status = time.perf_counter(), 500
            self.counts.in_flight += 1
            try:
                self._check_sender(request)
                response = await handler(request)
                response.headers["X-Content-Type-Options"] = "nosniff"
            except Refused as error:
                # where a body may not have been read, the connection cannot be used for another request
                closing = {"Connection": "close"} if error.status in (NOT_ALLOWED, TOO_LARGE, TOO_SLOW) else None
                response = JSONResponse({"error": str(error)}, error.status, headers=closing)
            except HTTPException as error:
                status = error.status_code
                raise
            finally:
                self.counts.in_flight -= 1
                self.counts.seconds[path] += time.perf_counter() - started
                if status != 500:
                    self.counts.requests[path, status] += 1
            self.counts.requests[path, response.status_code] += 1
            return response

        return run

    def _check_sender(self, request: Request) -> None:
        """Raise Refused for pages of other sites that make a browser ask: by a name of theirs, or from their page."""
        host = request.headers.get("host", "")
        if self.local and urlsplit(f"//{host}").hostname not in LOOPBACK:
            raise Refused(NOT_ALLOWED, f"Host: {host[:100]} is no name of this machine: use http://127.0.0.1")
        origin = request.headers.get("origin")
        if request.method == "POST" and origin is not None and urlsplit(origin).netloc != host:
            raise Refused(NOT_ALLOWED, f"a page of {origin[:100]} may not send pictures here")


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise Refused(400, f"{name}={text[:40]} must be a whole number")
    return int(text)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "the service failed; its terminal says why"}, 500)
