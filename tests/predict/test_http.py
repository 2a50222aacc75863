"""The server on a real socket, asked by strangers: HTTP as RFC 9110 and 9112 want it."""

import contextlib
import re
import socket

import pytest

from tests.predict.served import BODY, HOST, MARKER, answers, connect, exchange, line, one_answer, post, served, unsized


@pytest.fixture(scope="module")
def usual():
    with served() as one:
        yield one


def chunked(body):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


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
