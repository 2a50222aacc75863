"""What stands before the application, whatever the request: token, Host header, size and time of the body, crashes."""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
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
# Times the limit that is read and thrown away, so that a client that sends first and reads then sees the 413.
_LINGER = 8


@dataclass(frozen=True)
class Limits:
    """Sizes and times of one server."""

    body_bytes: int = 1 << 20
    body_seconds: float = 10  # for a body to arrive
    answer_seconds: float = 30  # in the queue and the model
    waiting: int = 2048  # visits in the queue; more are refused with 503


DEFAULTS = Limits()


class RefusedError(Exception):
    """An answer without the application: status, one line, headers."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.response = JSONResponse({"error": error, "details": []}, status, headers)


class Guard:
    """An ASGI application around another. Without a token requests must name a loopback host (DNS rebinding)."""

    def __init__(self, app: Any, gauges: Gauges, limits: Limits, token: str | None) -> None:
        self.app, self.gauges, self.limits = app, gauges, limits
        self.expected = f"Bearer {token}".encode() if token is not None else None

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

        try:
            await self._answer(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - uvicorn would log its message, which may quote a visit
            log.error("a request failed: %s", without_message(error))
            if status == _GONE:
                failed = JSONResponse({"error": "the server failed; its log says where", "details": []}, 500)
                await failed(scope, receive, watched)
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self.gauges.request(route, status, time.monotonic() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._admit(scope["path"], headers)
            body = await self._body(headers, receive)
        except RefusedError as refusal:
            await refusal.response(scope, receive, send)
            return
        if body is None:
            return
        first: dict[str, Any] | None = {"type": "http.request", "body": body, "more_body": False}

        async def replayed() -> MutableMapping[str, Any]:
            nonlocal first
            message, first = first, None
            return message if message is not None else await receive()

        await self.app(scope, replayed, send)

    def _admit(self, path: str, headers: dict[bytes, bytes]) -> None:
        if path == OPEN:
            return
        if self.expected is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
            if name not in _LOOPBACK_NAMES:
                raise RefusedError(
                    421,
                    "without a token this server answers to localhost and 127.0.0.1 only; "
                    "give it a token to use another name",
                )
        elif not hmac.compare_digest(headers.get(b"authorization", b""), self.expected):
            raise RefusedError(401, "expected the header 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, at most limits.body_bytes; None when the client went away."""
        most = self.limits.body_bytes
        too_large = RefusedError(
            413, f"the body is larger than {most} bytes; send the visits in several requests", {"Connection": "close"}
        )
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > _LINGER * most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    if size <= most:
                        parts.append(part)
                    elif size > _LINGER * most:
                        break
        except TimeoutError:
            if size <= most:
                raise RefusedError(
                    408, f"the body took longer than {self.limits.body_seconds:g} s", {"Connection": "close"}
                ) from None
        if size > most:
            raise too_large
        return b"".join(parts)
