"""`ckd serve` on a real socket with a fake student, and requests to it byte by byte."""

import contextlib
import json
import socket
import threading
from types import SimpleNamespace

import numpy as np

from ckd.predict.serving.app import make_app
from ckd.predict.serving.guard import Limits
from ckd.predict.serving.server import make_server
from ckd.visits.labels import CCS25, NUM_LABELS

MARKER = "zanzibar-4711"
BODY = json.dumps({"visits": [{"input": MARKER}]}).encode()
HOST = b"Host: localhost\r\n"


class Student:
    """A fake student, which may be held; it remembers what it has scored."""

    def __init__(self):
        self.entered, self.go, self.seen = threading.Event(), threading.Event(), []
        self.go.set()

    def __call__(self, texts):
        self.entered.set()
        assert self.go.wait(20)
        self.seen += texts
        half = np.full((len(texts), NUM_LABELS), 0.5)
        return SimpleNamespace(probabilities=half, calibrated=half, flags=half > 0, truncated=half[:, 0] > 1)


@contextlib.contextmanager
def served(**limits):
    """A server in a thread: its port, its student, and itself."""
    student = Student()
    app = make_app(student, CCS25, {"student": "abc"}, limits=Limits(**limits))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, server = listening.getsockname()[1], make_server(app)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield SimpleNamespace(port=port, student=student, server=server, app=app)
        finally:
            student.go.set()
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def connect(one, data=b""):
    client = socket.create_connection(("127.0.0.1", one.port), timeout=20)
    client.sendall(data)
    return client


def answers(client):
    """All answers on a connection until the server closes it or rests for a moment, and whether it is closed."""
    found = part = client.recv(1 << 20)
    client.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        while part:
            found += (part := client.recv(1 << 20))
    client.settimeout(20)
    return found, not part


def exchange(one, data):
    with connect(one, data) as client:
        return answers(client)


def one_answer(found, *, bodiless=False):
    """Status, headers and JSON of an answer that is alone and whole."""
    head, _, body = found.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert "date" in headers, found
    if not bodiless:
        assert len(body) == int(headers["content-length"])
    assert bodiless or headers["content-type"] == "application/json", found
    return int(status.split()[1]), headers, None if bodiless else json.loads(body)


def line(method, path=b"/healthz", version=b"1.1", host=HOST):
    return method + b" " + path + b" HTTP/" + version + b"\r\n" + host


def post(extra=b"", body=BODY, path=b"/predict", media=b"application/json", sized=True):
    length = b"Content-Length: %d\r\n" % len(body) if sized else b""
    return line(b"POST", path) + b"Content-Type: " + media + b"\r\n" + length + extra + b"\r\n" + body


def unsized(extra, body=b""):
    return post(extra, body, sized=False)
