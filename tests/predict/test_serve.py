"""`ckd serve` as a process on loopback, asked by HTTP clients: answers, a drain at SIGTERM, errors in one line."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ckd.errors import ConfigError
from ckd.visits.labels import DISEASES
from jobs.cli import main
from jobs.serve import VARIABLE, is_loopback, read_token
from testbed.clients import load
from tests.predict.scored_student import make_student
from tests.student.student_cohort import WORDS

MARKER = "zanzibar-4711"
TOKEN = "t0ken-for-a-test-only"


class Served:
    """A running server: where it listens, and all that it has written."""

    def __init__(self, model, *words, **environment):
        command = [sys.executable, "-m", "jobs", "serve", "--model", model, "--port", "0", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, **pipes)
        self.lines, self.port = [], None
        for line in self.process.stdout:
            self.lines.append(line)
            if "http://" in line:
                self.port = int(line.partition("/predict")[0].rpartition(":")[2])
                break
        assert self.port, "".join(self.lines)
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()

    def ask(self, path, body=None, method=None, **headers):
        """Status and body of one request on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            data = json.dumps(body).encode() if isinstance(body, dict) else body
            given = {
                "Content-Type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            }
            connection.request(method or ("POST" if body is not None else "GET"), path, data, given)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def predict(self, texts, **headers):
        status, data = self.ask("/predict", {"visits": [{"input": text} for text in texts]}, **headers)
        assert status == 200, data
        return json.loads(data)["visits"]

    def close(self):
        """Leave nothing behind, whatever failed."""
        self.process.kill()
        self.process.wait(60)

    def end(self):
        """SIGTERM; returns the exit code and everything that was written."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join(10)
        return code, "".join(self.lines)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(model):
    with contextlib.closing(Served(model)) as server:
        yield server
        code, written = server.end()
    assert code == 0
    assert MARKER not in written
    assert "Traceback" not in written


TEXTS = [" ".join(WORDS[i : i + 1 + 7 * i % 30]) for i in range(40)]


def numbers(visits, key):
    return np.array([[visit[key][name] for name in DISEASES] for visit in visits])


def test_many_clients_at_once_get_what_the_model_gives_one_text_at_a_time(served, model):
    from ckd.predict.scorer import Scorer

    scorer = Scorer.load(model)
    alone = [scorer([text]) for text in TEXTS]
    with ThreadPoolExecutor(20) as clients:
        answers = [answer[0] for answer in clients.map(lambda text: served.predict([text]), TEXTS)]
    np.testing.assert_allclose(numbers(answers, "probabilities"), [one.probabilities[0] for one in alone], atol=1e-5)
    np.testing.assert_allclose(numbers(answers, "calibrated"), [one.calibrated[0] for one in alone], atol=1e-5)
    assert [answer["names"] for answer in answers] == [
        [n for n, f in zip(DISEASES, one.flags[0], strict=True) if f] for one in alone
    ]
    assert [answer["truncated"] for answer in answers] == [bool(one.truncated[0]) for one in alone]
    together = served.predict(TEXTS)
    np.testing.assert_allclose(numbers(together, "probabilities"), numbers(answers, "probabilities"), atol=1e-5)


def test_a_planted_marker_comes_back_in_no_error_page_or_metric(served):
    text = f"{MARKER} {WORDS[0]}"
    visit_id = f"id-{MARKER}"
    good = served.ask("/predict", {"visits": [{"visit_id": visit_id, "input": text}]})
    assert good[0] == 200
    assert json.loads(good[1])["visits"][0]["visit_id"] == visit_id
    wrong = [
        served.ask(f"/predict?text={MARKER}"),
        served.ask(f"/{MARKER}"),
        served.ask("/predict", {"visits": [{"input": {"text": MARKER}}]}),
        served.ask("/predict", {"visits": [{"input": text, MARKER: 1}]}),
        served.ask("/predict", f'{{"visits": [{{"input": "{MARKER}'.encode()),
        served.ask("/predict", b'{"visits": [{"input": NaN, "visit_id": "' + MARKER.encode() + b'"}]}'),
        served.ask("/predict", {"visits": [{"input": MARKER * 120_000}]}),
        served.ask("/predict", {"visits": [{"input": text}]}, Host=f"{MARKER}.example"),
        served.ask("/predict", {"visits": [{"input": text}]}, Content_Type=f"text/{MARKER}"),
        served.ask("/predict", {"visits": []}, method=MARKER.replace("-", "").upper()),
    ]
    assert [status for status, _ in wrong] == [405, 404, 422, 422, 422, 422, 413, 421, 415, 405]
    pages = [served.ask("/metrics"), served.ask("/docs"), served.ask("/openapi.json"), served.ask("/healthz")]
    assert [status for status, _ in pages] == [200] * 4
    for _, data in [*wrong, *pages]:
        assert MARKER.encode() not in data.lower()
    assert MARKER not in "".join(served.lines)


def test_many_clients_for_a_while_each_get_their_own_answers_and_are_counted(served):
    figures = asyncio.run(load(served.process.pid, served.port, TEXTS, clients=8, seconds=1))
    assert figures["errors"] == {}
    assert figures["requests"] >= 8
    assert figures["server"]["ckd_serve_visits_total"] >= figures["requests"]
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert min(figures["memory"]["mib_every_10_s"]) > 10


def test_a_connection_that_speaks_no_http_or_leaves_half_way_disturbs_nobody(served):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
        connection.connect()
        connection.sock.sendall(f"{MARKER}\r\n\r\n".encode())
        assert b"400" in connection.sock.recv(1000)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
        connection.connect()
        head = (
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
        )
        connection.sock.sendall(head.encode() + MARKER.encode())
    assert served.predict([WORDS[0]])


def ask_until_it_ends(server, texts, done):
    """The times at which one client after another was answered; it stops when nobody answers any more."""
    while True:
        try:
            assert len(server.predict(texts, Authorization=f"Bearer {TOKEN}")) == len(texts)
        except (ConnectionError, http.client.HTTPException):
            return
        done.append(time.monotonic())


def test_at_sigterm_requests_in_flight_are_answered_and_the_exit_code_is_0(model):
    large, done = [" ".join(WORDS[:40])] * 256, []
    with (
        contextlib.closing(Served(model, **{VARIABLE: TOKEN})) as server,
        ThreadPoolExecutor(7) as clients,
    ):  # 7 × 256 visits fit into the queue
        assert server.ask("/metrics")[0] == 401
        assert server.ask("/healthz")[0] == 200
        asking = [clients.submit(ask_until_it_ends, server, large, done) for _ in range(7)]
        waiting = 0
        while waiting < 2 * len(large):
            page = server.ask("/metrics", Authorization=f"Bearer {TOKEN}")[1].decode()
            waiting = float(re.search(r"^ckd_serve_queue_visits (.*)$", page, re.M)[1])
        signalled = time.monotonic()
        code, written = server.end()
        for one in asking:
            one.result(60)
    assert code == 0
    assert sum(when > signalled for when in done) >= 2, "two requests waited in the queue when the signal came"
    assert f"{len(done):,} requests and {256 * len(done):,} visits answered" in written, "an answer was lost on its way"
    assert TOKEN not in written


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (["--host", "0.0.0.0"], None, "--host 0.0.0.0"),
        (["--host", "::"], None, "--host ::"),
        (["--host", "ckd.example"], None, "--host ckd.example"),
        (["--host", "0.0.0.0"], "short", "not a usable token"),
        (["--host", "0.0.0.0"], "", "not a usable token"),
        (["--token-file", "/nowhere/token"], None, "--token-file /nowhere/token: cannot be read"),
        (["--host", "192.0.2.1"], TOKEN, "cannot listen there"),
        (["--port", "99999"], None, "cannot listen there"),
        ([], None, "/nowhere/student: no trained student"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_2(words, token, message, monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    if token is not None:
        monkeypatch.setenv(VARIABLE, token)
    assert main(["serve", "--model", "/nowhere/student", "--port", "0", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert TOKEN not in error


def test_a_damaged_model_is_refused_before_anybody_is_answered(model, tmp_path, capsys):
    folder = tmp_path / "student"
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert main(["serve", "--model", str(folder), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert "model.safetensors: missing or changed" in error
    assert error.count("\n") == 1


def test_only_addresses_of_this_machine_are_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.8.9.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""]))


def test_a_token_comes_from_a_file_before_the_environment_and_is_never_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "e" * 20)
    assert read_token(None) == "e" * 20
    file = tmp_path / "token"
    file.write_text("f" * 20 + "\n")
    assert read_token(str(file)) == "f" * 20
    for bad in ("short", "two words and many letters", "ünicode-" * 4):
        file.write_text(bad)
        with pytest.raises(ConfigError) as refused:
            read_token(str(file))
        assert bad not in str(refused.value)
    monkeypatch.delenv(VARIABLE)
    assert read_token(None) is None


def test_help_does_not_load_what_only_a_server_needs():
    heavy = ("fastapi", "uvicorn", "torch", "prometheus_client")
    script = f"import sys; from jobs import serve; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        ).stdout
        == "[]\n"
    )
