"""A web server of a test on a port of this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer


class Loopback(ThreadingHTTPServer):
    """Says nothing about clients that hang up: its threads outlive a test, and the next one reads standard error."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed or gave up is what such tests are about."""


@contextmanager
def serving(server: Loopback) -> Iterator[Loopback]:
    """Answers in a thread until the end of the block."""
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
