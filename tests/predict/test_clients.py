"""Clients that hang up, say nothing, read nothing, come in hundreds, or are there when the server ends."""

import contextlib
import json
import re
import socket
import time

import pytest

from ckd.predict.serving import server as serving
from ckd.predict.serving.connection import ROOM
from ckd.predict.serving.guard import Limits
from ckd.predict.serving.server import room_for
from tests.predict.served import MARKER, answers, connect, exchange, line, one_answer, post, served, unsized


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
