"""A real S3 server (moto, its own process on loopback), and before it a proxy that fails as networks do."""

import http.client
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from testbed.loopback import Loopback, serving

BUCKET = "bucket"
ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{0}</Code><Message>made by the test</Message></Error>'
CODES = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied"}
REFUSALS = {"ExpiredToken": 400, "InvalidToken": 400, "RequestTimeTooSkewed": 403, "InvalidAccessKeyId": 403}
REFUSALS |= {"SignatureDoesNotMatch": 403, "AuthorizationHeaderMalformed": 400, "PermanentRedirect": 301}
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "expect"}


@contextmanager
def s3_server(host="127.0.0.1"):
    """Yields the port of an S3 server that has an empty bucket."""
    port = free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)], port, host):
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT"))
        yield port


@contextmanager
def gcs_server():
    """Yields the port of a Google Cloud Storage emulator that has an empty bucket."""
    port = free_port()
    start = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}"]
    with _running([sys.executable, "-m", "gcp_storage_emulator", *start], port):
        yield port


@contextmanager
def _running(command, port, host="127.0.0.1"):
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not _listens(port, host):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


class Proxy(Loopback):
    """Hands requests on to the server, unless `fault(number, method, path)` names something else to do.

    A status (500) or a code of REFUSALS; "cut": half of the request's body is read, then the connection is reset;
    "cut answer": the same to the answer; or seconds to wait first.
    """

    def __init__(self, upstream):
        super().__init__(_Handler)
        self.upstream, self.fault, self.seen, self.counting = upstream, no_fault, [], threading.Lock()


def no_fault(number, method, path):
    return None


def proxy(upstream):
    return serving(Proxy(upstream))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the head to be acknowledged

    def _handle(self):
        with self.server.counting:
            self.server.seen.append((self.command, self.path))
            number = len(self.server.seen)
        fault = self.server.fault(number, self.command, self.path)
        body = self._body(half=fault == "cut")
        if fault == "cut":
            self._reset()
            return
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int) or fault in REFUSALS:
            self._answer(REFUSALS.get(fault, fault), {}, ERROR.format(CODES.get(fault, fault)).encode())
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        content, headers = answer.read(), dict(answer.getheaders())
        upstream.close()
        self._answer(answer.status, headers, content, cut=fault == "cut answer")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

    def _body(self, half):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length // 2 if half else length)
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            if half:
                return self.rfile.read(size // 2)
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _answer(self, status, headers, content, cut=False):
        head = self.command == "HEAD"
        length = headers.get("Content-Length", "0") if head else str(len(content))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP | {"date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if not head:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._reset()

    def _reset(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_):
        """Say nothing."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(port, host):
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
