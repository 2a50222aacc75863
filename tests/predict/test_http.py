"""The server on a real socket, asked by strangers: HTTP as RFC 9110 and 9112 want it, whatever the clients do."""

import contextlib
import json
import re
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ckd.predict.serving import server as serving
from ckd.predict.serving.app import make_app
from ckd.predict.serving.connection import ROOM
from ckd.predict.serving.guard import Limits
from ckd.predict.serving.server import make_server, room_for
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


@pytest.fixture(scope="module")
def usual():
    with served() as one:
        yield one


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


def chunked(body):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def unsized(extra, body=b""):
    return post(extra, body, sized=False)


REQUESTS = {
    "1.0": (line(b"GET", version=b"1.0", host=b"") + b"\r\n", 200, True),
    "1.0 elsewhere": (line(b"GET", b"/" + MARKER.encode(), b"1.0", b"") + b"\r\n", 404, True),
    "the whole address": (line(b"GET", b"http://localhost:8000/healthz?a=b") + b"\r\n", 200, False),
    "the whole foreign address": (line(b"GET", b"http://evil.example/metrics") + b"\r\n", 421, True),
    "percent-encoded": (line(b"GET", b"/%68ealth%7A") + b"\r\n", 200, False),
    "no UTF-8 in the path": (line(b"GET", b"/%ff%zz%00") + b"\r\n", 404, False),
    "a slash more": (post(path=b"/predict/"), 404, False),
    "a query": (post(path=b"/predict?a=b&" + MARKER.encode()), 200, False),
    "an empty line first": (b"\r\n" + line(b"GET") + b"\r\n", 200, False),
    "trace": (line(b"TRACE") + b"X: " + MARKER.encode() + b"\r\n\r\n", 405, False),
    "connect": (line(b"CONNECT", b"localhost:80") + b"\r\n", 404, False),
    "websocket": (line(b"GET") + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200, False),
    "chunked": (unsized(b"Transfer-Encoding: chunked\r\n", chunked(BODY)), 200, False),
    "continue": (post(b"Expect: 100-continue\r\n"), 200, False),
    "no body": (unsized(b""), 422, False),
    "gzip": (post(b"Content-Encoding: gzip\r\n"), 415, False),
    "another media type": (post(media=b"text/plain"), 415, False),
    "a charset": (post(media=b"Application/JSON; charset=utf-8"), 200, False),
    "UTF-16": (post(body=BODY.decode().encode("utf-16")), 422, False),
    "a byte order mark": (post(body=b"\xef\xbb\xbf" + BODY), 200, False),
    "infinity": (post(body=b'{"visits": [{"input": 1e999}]}'), 422, False),
    "a number of 5,000 digits": (post(body=b'{"visits": [{"input": ' + b"1" * 5000 + b"}]}"), 422, False),
    "no host": (line(b"GET", host=b"") + b"\r\n", 400, True),
    "two hosts": (line(b"GET") + HOST + b"\r\n", 400, True),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 400, True),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, True),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, True),
    "not ASCII": (line(b"GET", "/hä".encode()) + b"\r\n", 400, True),
    "a space before the colon": (b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n", 400, True),
    "length abc": (unsized(b"Content-Length: abc\r\n"), 400, True),
    "length -1": (unsized(b"Content-Length: -1\r\n"), 400, True),
    "length of 5,000 digits": (unsized(b"Content-Length: " + b"9" * 5000 + b"\r\n"), 400, True),
    "two lengths": (post(b"Content-Length: 5\r\n"), 400, True),
    "a length and chunks": (post(b"Transfer-Encoding: chunked\r\n", chunked(BODY)), 400, True),
    "compressed transfer": (unsized(b"Transfer-Encoding: gzip, chunked\r\n"), 501, True),
    "a broken chunk": (unsized(b"Transfer-Encoding: chunked\r\n", b"zz\r\n" + BODY), 400, True),
    "headers of 300 KB": (line(b"GET") + b"X: " + b"a" * 300_000 + b"\r\n\r\n", 431, True),
    "a gigabyte": (unsized(b"Content-Length: 1073741824\r\nExpect: 100-continue\r\n"), 413, True),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_answered_once_in_json_as_http_wants_it_and_quotes_nothing(usual, name):
    data, wanted, closes = REQUESTS[name]
    found, closed = exchange(usual, data)
    status, headers, body = one_answer(found)
    assert (status, closed) == (wanted, closes), found
    assert (found.startswith(b"HTTP/1.1 100")) == (name == "continue")
    assert ("error" in body) == (status != 200)
    assert ("close" in headers.get("connection", "").lower()) == closes
    assert status != 405 or headers["allow"] == "GET, HEAD, OPTIONS"
    assert status == 200 or MARKER.encode() not in found


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        *((path, 200, None) for path in ("/healthz", "/metrics", "/docs", "/openapi.json")),
        ("/predict", 405, "POST, OPTIONS"),
        ("/nowhere", 404, None),
    ],
)
def test_head_is_get_without_its_body(usual, path, status, allow):
    found, closed = exchange(usual, line(b"HEAD", path.encode()) + b"\r\n")
    assert not closed and found.endswith(b"\r\n\r\n") and found.count(b"\r\n\r\n") == 1
    said, headers, _ = one_answer(found, bodiless=True)
    assert (said, headers.get("allow")) == (status, allow)
    assert int(headers["content-length"]) > 10


def test_options_names_the_methods_and_allows_no_foreign_page(usual):
    asked = {b"/predict": "POST, OPTIONS", b"/healthz": "GET, HEAD, OPTIONS", b"*": "GET, HEAD, OPTIONS, POST"}
    for path, allowed in asked.items():
        origin = b"Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        status, headers, _ = one_answer(exchange(usual, line(b"OPTIONS", path) + origin)[0], bodiless=True)
        assert (status, headers["allow"]) == (204, allowed)
        assert not [name for name in headers if name.startswith("access-control")]


def test_pipelined_requests_are_answered_in_order_and_an_error_among_them_ends_nothing(usual):
    found, closed = exchange(usual, line(b"GET") + b"\r\n" + post() + post(body=b"{") + line(b"GET") + b"\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"200", b"422", b"200"]
    assert not closed


def test_an_answer_of_two_parts_does_not_wait_for_the_client_to_acknowledge_the_first(usual):
    with connect(usual, line(b"GET") + b"\r\n") as client:
        answers(client)
        (connection,) = [c for c in usual.server.server_state.connections if c.client == client.getsockname()]
        assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def streams(one, head, parts):
    """Sends without reading, as simple clients do; what it reads once all is sent or nobody takes more."""
    with connect(one, head) as client:
        with contextlib.suppress(OSError):
            for part in parts:
                client.sendall(part)
        return answers(client)


@pytest.mark.parametrize("sized", [True, False])
def test_who_sends_100_mb_before_reading_still_reads_why_they_are_not_taken(usual, sized):
    megabyte = b"x" * (1 << 20)
    size = b"Content-Length: 104857600\r\n" if sized else b"Transfer-Encoding: chunked\r\n"
    parts = [megabyte] * 100 if sized else [b"100000\r\n%s\r\n" % megabyte] * 100
    found, _ = streams(usual, unsized(size), parts)
    assert one_answer(found)[0] == 413


def value(one, metric):
    page = exchange(one, line(b"GET", b"/metrics") + b"\r\n")[0].decode()
    return float(re.search(rf"^{re.escape(metric)} (.*)$", page, re.M)[1])


def until(true, seconds=10):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_who_hangs_up_is_not_scored_and_is_counted():
    with served() as one:
        one.student.go.clear()
        with connect(one, post(body=b'{"visits": [{"input": "first"}]}')):
            assert one.student.entered.wait(10)
            gone = connect(one, post(body=b'{"visits": [{"input": "gone"}, {"input": "gone"}]}'))
            until(lambda: value(one, "ckd_serve_queue_visits") == 2)
            gone.close()
            until(lambda: value(one, "ckd_serve_visits_dropped_total") == 2)
            assert value(one, "ckd_serve_queue_visits") == 0
            with connect(one, post(body=b'{"visits": [{"input": "stays"}]}')) as stays:
                until(lambda: value(one, "ckd_serve_queue_visits") == 1)
                one.student.go.set()
                assert one_answer(answers(stays)[0])[0] == 200
        assert one.student.seen == ["first", "stays"]
        assert value(one, 'ckd_serve_requests_total{route="/predict",status="499"}') == 1


def test_silent_connections_shut_nobody_out():
    with served(connections=4) as one, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(one, b"GET /he"[: n % 7])) for n in range(ROOM + 40)]
        until(lambda: len(one.server.server_state.connections) == ROOM + 4)
        assert one_answer(exchange(one, line(b"GET") + b"\r\n")[0])[0] == 200
        assert one_answer(exchange(one, post())[0])[0] == 200
        for client in silent[:30]:  # the longest silent ones had to go
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(10) == b""


def test_with_as_many_requests_as_are_taken_the_next_is_refused_and_health_is_answered():
    with served(connections=2) as one, contextlib.ExitStack() as stack:
        one.student.go.clear()
        for _ in range(2):
            stack.enter_context(connect(one, post()))
        until(lambda: one.app.requests == 2)
        status, headers, _ = one_answer(exchange(one, post())[0])
        assert (status, headers["retry-after"]) == (503, "1")
        assert one_answer(exchange(one, line(b"GET") + b"\r\n")[0])[0] == 200


def test_a_client_that_says_nothing_or_a_letter_at_a_time_is_let_go():
    with served(head_seconds=0.4, body_seconds=0.4) as one:
        body = unsized(b"Content-Length: 50\r\n", b"{")
        with connect(one) as silent, connect(one, b"GET /he") as late, connect(one, body) as unfinished:
            with connect(one, line(b"GET") + b"\r\n") as again:
                assert one_answer(answers(again)[0])[0] == 200
                for _ in range(20):
                    again.sendall(b"a")
                    time.sleep(0.03)
                assert one_answer(answers(again)[0])[0] == 408
            assert silent.recv(100) == b""
            assert one_answer(answers(late)[0])[0] == 408
            status, _, said = one_answer(answers(unfinished)[0])
            assert (status, said["error"]) == (408, "the body took longer than 0.4 s")


def test_a_client_that_does_not_read_its_answer_is_let_go():
    many = json.dumps({"visits": [{"input": "x"}] * 256}).encode()
    with served(unread_seconds=0.3) as one, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", one.port))
        for _ in range(12):  # more than the kernel keeps
            client.sendall(post(body=many))
        until(lambda: len(one.student.seen) >= 256)
        until(lambda: not one.server.server_state.connections)


def test_what_is_not_done_when_the_patience_at_the_end_is_over_is_a_503(caplog):
    with served() as one:
        one.server.config.timeout_graceful_shutdown = 0.2
        one.student.go.clear()
        with connect(one, post()) as waiting, connect(one, b"GET /he"):
            assert one.student.entered.wait(10)
            one.server.should_exit = True
            until(lambda: bool(waiting.recv(1, socket.MSG_PEEK)))
            assert one_answer(answers(waiting)[0])[0] == 503
            one.student.go.set()
    assert MARKER not in caplog.text


@pytest.mark.parametrize(
    ("limit", "connections", "raised"),
    [
        ((256, 20_000), 1024, (1450, 20_000)),
        ((64, 64), 1, (64, 64)),
        ((512, 512), 320, (512, 512)),
        ((-1, -1), 1024, None),
    ],
)
def test_there_are_as_many_connections_as_files_may_be_open(monkeypatch, limit, connections, raised):
    now = []
    monkeypatch.setattr(serving.resource, "getrlimit", lambda _: limit)
    monkeypatch.setattr(serving.resource, "setrlimit", lambda _, both: now.append(both))
    assert room_for(Limits()).connections == connections
    assert now == ([raised] if raised else [])
