"""A client without the token gets nothing from any entrance of the cluster.

The entrances: dashboard, its job API, the agent's job API, the head's GCS, the raylet, Ray's client server. A real head
is started as ray_cluster.yaml does it; every refusal is tested beside the same request with the token, which is
answered.
"""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler

import grpc
import psutil
import pytest
import requests

from cluster.address import require_listener
from cluster.submit import authentication
from testbed.loopback import Loopback, serving
from testbed.raycluster import CHECKOUT, cluster, until

TOKEN = "c3" * 32
TOKENS = {"none": None, "wrong": "d4" * 32}
JOB = {"entrypoint": "echo in"}
SERVERS = ("DashboardA", "gcs_server", "raylet", "ray.util.client.server")  # as their processes are named


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    file = tmp_path_factory.mktemp("token") / "auth_token"
    file.write_text(TOKEN)
    with cluster(dashboard=True, settings={"RAY_AUTH_TOKEN_PATH": str(file)}) as one:
        until(lambda: authentication(one.dashboard) == "token", 60, "the dashboard answers", 0.5)
        until(lambda: all(listening(one, name) for name in SERVERS), 60, f"all of {', '.join(SERVERS)} listen", 0.5)
        yield one


def listening(head, name):
    """host:port of every socket on which a process of the head, so named, listens."""
    found = []
    for process in head.head.tree():
        if name in " ".join([process.name(), *process.cmdline()]):
            found += [
                f"{c.laddr.ip}:{c.laddr.port}" for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN
            ]
    return found


def ask(method, url, token, **more):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.request(method, url, headers=headers, timeout=20, **more).status_code


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/version"),
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/"),
        ("PUT", "/api/packages/gcs/_ray_pkg_0123456789abcdef.zip"),
        ("GET", "/nodes?view=summary"),
        ("GET", "/api/cluster_status"),
        ("GET", "/api/v0/nodes"),
        ("GET", "/api/v0/logs"),
    ],
)
def test_dashboard_and_job_api_refuse(head, method, path, token):
    assert ask(method, head.dashboard + path, TOKENS[token], json=JOB) in (401, 403)


def test_dashboard_and_job_api_answer_who_has_the_token(head):
    assert ask("GET", f"{head.dashboard}/api/version", TOKEN) == 200
    assert ask("GET", f"{head.dashboard}/api/jobs/", TOKEN) == 200


@pytest.mark.parametrize("token", TOKENS)
def test_the_agent_starts_no_job_either(head, token):
    answers = set()
    for address in listening(head, "DashboardA"):
        url = f"http://{address.replace('0.0.0.0', '127.0.0.1')}/api/job_agent/jobs/"
        try:
            answers.add(ask("POST", url, TOKENS[token], json=JOB))
        except requests.RequestException:
            continue  # it speaks gRPC, or serves metrics
    assert answers & {401, 403}
    assert answers <= {401, 403, 404, 405}


def call(address, method, token):
    """The status of an empty gRPC request."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


@pytest.mark.parametrize(
    ("process", "method"),
    [
        ("gcs_server", "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"),
        ("gcs_server", "/ray.rpc.InternalKVGcsService/InternalKVKeys"),
        ("gcs_server", "/ray.rpc.ActorInfoGcsService/GetAllActorInfo"),
        ("raylet", "/ray.rpc.NodeManagerService/GetNodeStats"),
        ("ray.util.client.server", "/ray.rpc.RayletDriver/ClusterInfo"),
    ],
)
def test_gcs_raylet_and_client_server_refuse(head, process, method):
    addresses = [
        a.replace("::ffff:", "").replace("0.0.0.0", "127.0.0.1").replace(":::", "127.0.0.1:")
        for a in listening(head, process)
    ]
    statuses = {
        token: {call(address, method, token) for address in addresses} for token in (None, TOKENS["wrong"], TOKEN)
    }
    assert "UNAUTHENTICATED" in statuses[None] & statuses[TOKENS["wrong"]]
    assert "OK" not in statuses[None] | statuses[TOKENS["wrong"]]
    assert statuses[TOKEN] - {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}, (
        "with the token the same request is answered"
    )


def said_by_our_client(address, **settings):
    """The one line that a new process prints when it connects there.

    Ray keeps the first token that a process reads, so this process must not read any.
    """
    connecting = f"try: print(connect({address!r}).get_address())\nexcept RefusedError as e: print(e)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", f"from cluster.submit import *\n{connecting}"],
        cwd=CHECKOUT,
        env=environment | settings,
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("\n") == 1, done
    return done.stdout.strip()


def test_our_client_says_in_one_line_what_is_missing(head, tmp_path):
    (tmp_path / "wrong").write_text(TOKENS["wrong"])
    for file, means in (("wrong", "Invalid authentication token"), ("nowhere", "cannot be opened")):
        assert means in said_by_our_client(head.dashboard, RAY_AUTH_TOKEN_PATH=str(tmp_path / file))


def test_the_dashboard_listens_on_loopback_only(head):
    assert f"127.0.0.1:{head.dashboard_port}" in listening(head, "dashboard.py")
    assert not [
        a for a in listening(head, "dashboard.py") if a.endswith(f":{head.dashboard_port}") and not a.startswith("127.")
    ]


def test_a_cluster_that_takes_jobs_from_everybody_is_refused():
    """Not a head of its own: what it would say to the one question that needs no token."""

    class Anybody(BaseHTTPRequestHandler):
        def do_GET(self):
            answers = {
                "/api/authentication_mode": {"authentication_mode": "disabled"},
                "/api/version": {"version": "4", "ray_version": "2.60.0"},
            }
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with serving(Loopback(Anybody)) as server:
        address = server.url
        require_listener(address)
        assert "takes jobs from everybody" in said_by_our_client(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
        assert said_by_our_client(address, RAY_AUTH_MODE="disabled") == address
