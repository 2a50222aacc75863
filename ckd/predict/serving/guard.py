"""What stands before the application, whatever the request: HTTP's own rules that uvicorn leaves to it, room, token,
Host header, size and time of the body, clients that hang up, crashes.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from ckd.predict.serving.batcher import without_message
from ckd.predict.serving.gauges import Gauges

log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTES = ("/predict", "/healthz", "/metrics", "/openapi.json", "/docs")
OPEN = "/healthz"  # answers without the token
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}
_GONE = 499  # in the metrics: the client went away


@dataclass(frozen=True)
class Limits:
    """Sizes and times of one server."""

    body_bytes: int = 1 << 20
    body_seconds: float = 10  # for a body to arrive
    answer_seconds: float = 30  # in the queue and the model
    waiting: int = 2048  # visits in the queue; more are refused with 503
    connections: int = 1024  # requests at once; health checks beyond that have room of their own
    head_seconds: float = 10  # for the line and the headers of a request to arrive
    unread_seconds: float = 30  # that an answer may lie unread


DEFAULTS = Limits()


class RefusedError(Exception):
    """An answer without the application: status, one line, headers."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        # Of the body that the request may have nothing is read, so that the next request could not be found behind it.
        self.response = refused(status, error, {"Connection": "close", **(headers or {})})


def refused(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer with one error."""
    return JSONResponse({"error": error, "details": []}, status, headers)


class Guard:
    """An ASGI application around another. Without a token requests must name a loopback host (DNS rebinding)."""

    def __init__(self, app: Any, gauges: Gauges, limits: Limits, token: str | None) -> None:
        self.app, self.gauges, self.limits = app, gauges, limits
        self.expected = token.encode() if token is not None else None
        self.requests = 0  # of other routes than the health check's, at this moment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), _GONE

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        counted = scope["path"] != OPEN
        self.requests += counted
        try:
            await self._answer(scope, receive, watched)
        except asyncio.CancelledError:  # uvicorn's last word to requests in flight; it would answer in plain text
            if status == _GONE:
                await refused(503, "the server stops; ask again")(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - uvicorn would log its message, which may quote a visit
            log.error("a request failed: %s", without_message(error))
            if status == _GONE:
                await refused(500, "the server failed; its log says where")(scope, receive, watched)
        finally:
            self.requests -= counted
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self.gauges.request(route, status, time.monotonic() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            _speak_http(scope, headers)
            self._admit(scope, headers)
            body = await self._body(headers, receive)
        except RefusedError as refusal:
            await refusal.response(scope, receive, send)
            return
        if body is not None:
            await _while_it_is_waited_for(self.app, scope, body, receive, send)

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if scope["path"] == OPEN:
            return
        if self.requests > self.limits.connections:
            raise RefusedError(503, "too many requests at once; try again in a second", {"Retry-After": "1"})
        if self.expected is None:
            if scope["http_version"] == "1.0" and b"host" not in headers:
                return  # no browser speaks so
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
            if name not in _LOOPBACK_NAMES:
                raise RefusedError(
                    421,
                    "without a token this server answers to localhost and 127.0.0.1 only; "
                    "give it a token to use another name",
                )
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.expected):
            raise RefusedError(401, "expected the header 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, at most limits.body_bytes; None when the client went away."""
        most = self.limits.body_bytes
        too_large = f"the body is larger than {most} bytes; send the visits in several requests"
        if int(headers.get(b"content-length", b"0")) > most:
            raise RefusedError(413, too_large)
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise RefusedError(413, too_large)
        except TimeoutError:
            raise RefusedError(408, f"the body took longer than {self.limits.body_seconds:g} s") from None
        return bytes(body)


def _speak_http(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """What RFC 9112 asks of a server and uvicorn does not do. Raises RefusedError."""
    if not scope["http_version"].startswith("1."):
        raise RefusedError(505, "this server speaks HTTP/1.1")
    if b"transfer-encoding" in headers and b"content-length" in headers:
        raise RefusedError(400, "Content-Length beside Transfer-Encoding; send one of them")
    if scope["path"].startswith("http://"):  # the whole address as target, as to a proxy; its host counts
        host, _, path = scope["path"].removeprefix("http://").partition("/")
        scope["path"], headers[b"host"] = f"/{path}", host.encode()


async def _while_it_is_waited_for(app: Any, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application on a body that is here; when the client hangs up, cancel it, so that nothing is scored."""
    first: dict[str, Any] | None = {"type": "http.request", "body": body, "more_body": False}

    async def hung_up() -> MutableMapping[str, Any]:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    async def replayed() -> MutableMapping[str, Any]:
        nonlocal first
        message, first = first, None
        return message if message is not None else await asyncio.shield(gone)

    gone = asyncio.ensure_future(hung_up())
    # HEAD is GET whose body uvicorn keeps back.
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    answering = asyncio.ensure_future(app({**scope, "method": method}, replayed, send))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        answering.cancel()
        gone.cancel()
        await asyncio.wait({answering, gone})
        failure = None if answering.cancelled() else answering.exception()
    if failure is not None:
        raise failure
