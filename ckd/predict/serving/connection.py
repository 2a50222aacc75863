"""One client's connection: uvicorn's HTTP/1.1 protocol with time limits, room for health checks and errors in JSON.

uvicorn alone keeps a silent connection for ever, counts it against its limit, which health checks then meet too, and
answers what is no HTTP in plain text.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ckd.predict.serving.gauges import Gauges
from ckd.predict.serving.guard import Limits, refused

ROOM = 64  # connections beyond the requests at once, for health checks and for the answer "too many"
_WRONG = {
    400: "this is not HTTP/1.1",
    408: "the headers did not arrive in time",
    431: "the headers are larger than 64 KiB",
    501: "expected Transfer-Encoding: chunked or none",
}


class Crowd:
    """The connections of a server: the longest silent one makes room for a new one, so silence shuts nobody out."""

    def __init__(self, limits: Limits, gauges: Gauges) -> None:
        self.limits, self.gauges = limits, gauges
        self._here: set[Connection] = set()
        self._silent: dict[Connection, None] = {}  # without a request, in the order in which they became so

    def enter(self, one: "Connection") -> None:
        """A new connection."""
        self._here.add(one)
        self._silent[one] = None
        if len(self._here) > self.limits.connections + ROOM:
            longest = next(iter(self._silent))
            self.leave(longest)
            longest.transport.abort()

    def leave(self, one: "Connection") -> None:
        """A connection that has ended, or has to."""
        self._here.discard(one)
        self._silent.pop(one, None)

    def note(self, one: "Connection", *, silent: bool) -> None:
        """Whether a connection waits for a request of its client."""
        if not silent:
            self._silent.pop(one, None)
        elif one in self._here:
            self._silent.setdefault(one)


class _Stepwise:
    """A transport that closes in two steps where the client still sends, so that it can read why (RFC 9112, 9.6)."""

    def __init__(self, transport: asyncio.Transport, still_sends: Callable[[], bool], seconds: float) -> None:
        self._transport, self._still_sends, self._seconds = transport, still_sends, seconds
        self.last_call: asyncio.TimerHandle | None = None  # there once it closes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.last_call is not None or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        # A client that reads nothing, or sends for ever, would keep the connection.
        self.last_call = asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)
        try:
            if not self._still_sends():
                self._transport.close()
            else:
                self._transport.resume_reading()
                self._transport.write_eof()
        except OSError:  # it is gone
            self._transport.abort()


class Connection(H11Protocol):
    """One connection. What it does beyond uvicorn's protocol depends on whether a request is being answered."""

    def __init__(self, crowd: Crowd, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.crowd, self.limits = crowd, crowd.limits
        self._head: asyncio.TimerHandle | None = None  # ends a request whose headers do not come
        self._unread: asyncio.TimerHandle | None = None  # ends a client that does not read
        self._steps: _Stepwise | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; its first request must come in time."""
        # asyncio does so only for sockets that were made with the protocol's number; else each answer waits 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._steps = _Stepwise(transport, self._still_sends, self.limits.unread_seconds)
        super().connection_made(cast(asyncio.Transport, self._steps))
        self.crowd.enter(self)
        self._head = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self.crowd.leave(self)
        for timer in (self._head, self._unread, self._steps.last_call if self._steps else None):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request; empty lines before one are passed over (RFC 9112, 2.2)."""
        if self.transport.is_closing():
            return
        if not self._busy() and not self.conn.trailing_data[0]:
            data = data.lstrip(b"\r\n")
        if data:
            super().data_received(data)
            self._note()

    def on_response_complete(self) -> None:
        """An answer is written; what the client has sent of the next request begins."""
        super().on_response_complete()
        self._note()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def shutdown(self) -> None:
        """The server ends: after the answer that is under way, if any."""
        if not self.transport.is_closing():
            super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 refuses; `msg` is uvicorn's own sentence."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(status if status in _WRONG else 400)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a client may ask for WebSocket, and is answered without (RFC 9110, 7.8)."""

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _still_sends(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.conn.trailing_data[0])

    def _note(self) -> None:
        busy = self._busy()
        self.crowd.note(self, silent=not busy)
        if busy and self._head is not None:
            self._head.cancel()
            self._head = None
        elif not busy and self._head is None and self.conn.trailing_data[0]:
            self._head = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Answer without the application, and close."""
        if self._busy():  # its body broke off: the application hears that the client is gone
            started, self.cycle.disconnected = self.cycle.response_started, True
            self.cycle.message_event.set()
            if started:
                self.transport.abort()
                return
        elif self.conn.our_state is not h11.IDLE:  # behind the last answer
            self.transport.close()
            return
        else:
            self.crowd.gauges.request("other", status, 0)
        answer = refused(status, _WRONG[status], {"Connection": "close"})
        head = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
        lines = [b"%s: %s\r\n" % line for line in [*self.server_state.default_headers, *answer.raw_headers]]
        self.transport.write(head + b"".join(lines) + b"\r\n" + bytes(answer.body))
        self.transport.close()
