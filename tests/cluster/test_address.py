"""Addresses of clusters: a wrong form, a dead head, a tunnel to nothing are found before Ray is asked."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import grpc
import pytest

from cluster import address, submit
from cluster.address import (
    RefusedError,
    UnreachableClusterError,
    WrongAddressError,
    named_cluster,
    require_form,
    require_head,
)
from testbed.loopback import Loopback, serving

HEAD_AT = "expected the head's HOST:PORT, such as 10.0.0.1:6379"


@contextmanager
def listening(answer):
    """A socket that gives `answer` to whoever connects, and closes; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("http://127.0.0.1:8265", "a cluster's dashboard, which takes jobs"),
        ("https://head", "a cluster's dashboard"),
        ("10.0.0.1", HEAD_AT),
        (":6379", HEAD_AT),
        ("gs://head:6379", HEAD_AT),
        ("head:port", "expected http://HEAD:8265, or the head's HOST:6379"),
        ("[::1", "expected http://HEAD:8265, or the head's HOST:6379"),
    ],
)
def test_what_is_no_address_of_a_head_is_told_with_the_right_form(given, says):
    with pytest.raises(WrongAddressError) as refused:
        require_head(given)
    assert says in str(refused.value)


def test_the_forms_of_a_head():
    assert require_form("10.0.0.1:6379") == ("", "10.0.0.1", 6379)
    assert require_form("[fd00::1]:6379") == ("", "fd00::1", 6379)
    assert require_form("ray://head:10001") == ("ray", "head", 10001)
    require_head("auto")


@pytest.mark.parametrize(("given", "named"), [("", ""), ("local", ""), (" local ", ""), ("h:1", "h:1")])
def test_local_names_no_cluster(given, named, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", given)
    assert named_cluster() == named


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid", "a..b"])
def test_a_dead_head_is_told(host):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableClusterError, match="nothing answers"):
            require_head(f"{host}:{closed.getsockname()[1]}")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n"])
def test_a_tunnel_to_nothing_and_another_service_are_no_head(answer, monkeypatch):
    monkeypatch.setattr(address, "SECONDS_TO_ANSWER", 0.5)
    with listening(answer) as port, pytest.raises(UnreachableClusterError, match="no Ray head"):
        require_head(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("known", "says"), [("right", ""), ("wrong", "does not take the token"), ("", "asks for a token")]
)
def test_a_token_that_a_head_does_not_take_is_told(monkeypatch, known, says):
    def check(_, context):
        if dict(context.invocation_metadata()).get("authorization") != "Bearer right":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    service, _, method = address._ALIVE.strip("/").partition("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(check)})
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setattr(address, "token", lambda: known)
    if says:
        with pytest.raises(RefusedError, match=says):
            require_head(f"127.0.0.1:{port}")
    else:
        require_head(f"127.0.0.1:{port}")
    server.stop(None)


def test_a_head_answers_whatever_proxies_are_set(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    require_head(f"127.0.0.1:{port}")
    server.stop(None)


def test_a_dashboard_without_http_is_told_as_its_url():
    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"authentication_mode": "token"}')

        def log_message(self, *_):
            pass

    with serving(Loopback(Dashboard)) as server:
        url = server.url
        bare = url.removeprefix("http://")
        with pytest.raises(WrongAddressError, match=f"expected its URL, {url}"):
            submit._require_cluster(bare)
        submit._require_cluster(url)
    with pytest.raises(WrongAddressError, match="expected a cluster's dashboard"):
        submit._require_cluster("gs://head:1")
