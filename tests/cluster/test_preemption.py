"""The watcher of spot notices against a fake metadata server.

tests/faults shows that a drained node gets no new shard.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster import preemption
from cluster.preemption import Aws, Gcp, NoAnswerError, Notice, find_cloud, wait_for_notice
from tests.cluster.metadata_server import MetadataServer


@pytest.fixture
def aws(monkeypatch):
    with MetadataServer("aws") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def gcp(monkeypatch):
    with MetadataServer("gcp") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def test_aws_is_asked_with_a_session_token_and_tells_the_deadline_of_its_notice(aws):
    cloud = Aws()
    assert cloud.look() is None and cloud.look() is None
    assert sum(a.startswith("PUT") for a in aws.asked) == 1, "one token for many looks"
    aws.end_at(2_000_000_120)
    assert cloud.look() == Notice("AWS: terminate", 2_000_000_120.0)


def test_an_aws_token_that_is_no_longer_good_is_renewed(aws):
    cloud = Aws()
    cloud.look()
    aws.forget_tokens()
    aws.end_at(2_000_000_120, "stop")
    with pytest.raises(NoAnswerError, match="401"):
        cloud.look()
    assert cloud.look() == Notice("AWS: stop", 2_000_000_120.0)


def test_an_aws_notice_that_cannot_be_read_is_a_notice_of_30_seconds(aws):
    for body in ("terminate", '{"action": "terminate"}', '{"action": "terminate", "time": "soon"}', "[1]"):
        aws.body = body
        assert Aws().look().deadline == pytest.approx(time.time() + 30, abs=3)


def test_gcp_answers_at_once_first_and_then_when_the_value_changes(gcp):
    cloud = Gcp()
    assert cloud.look() is None
    threading.Timer(0.5, gcp.preempt).start()
    started = time.monotonic()
    notice = cloud.look()
    assert 0.4 < time.monotonic() - started < 10
    assert notice.deadline == pytest.approx(time.time() + 30, abs=3)
    assert "wait_for_change=true" in gcp.asked[-1]


def test_a_wait_on_gcp_that_ends_without_a_change_is_started_again(gcp):
    cloud = Gcp(wait=1)
    assert [cloud.look() for _ in range(3)] == [None] * 3
    gcp.preempt()
    assert cloud.look() is not None


def test_the_cloud_that_answers_is_found_and_a_notice_given_before_is_not_lost(aws, gcp, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.url)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    assert isinstance(find_cloud(), Aws)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", gcp.url)
    monkeypatch.setenv("GCE_METADATA_HOST", gcp.environment["GCE_METADATA_HOST"])
    gcp.preempt()
    found = find_cloud()
    assert isinstance(found, Gcp) and found.look() is not None
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    assert find_cloud() is None


def test_a_metadata_server_that_fails_for_a_while_is_asked_on_and_said_once(aws, monkeypatch, caplog):
    monkeypatch.setattr(preemption, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(Aws, "pause", 0.01)
    cloud = Aws()
    aws.broken = 5
    aws.end_at(2_000_000_120)
    with caplog.at_level(logging.INFO, "preemption"):
        assert wait_for_notice(cloud, grace=1).deadline == 2_000_000_120.0
    assert len(caplog.records) == 1


def started(environment, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.preemption", "--address", f"127.0.0.1:{closed_port()}", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
    )


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_sigterm_is_a_notice_and_a_head_that_cannot_be_reached_is_exit_code_1_at_the_deadline(gcp):
    process = started(gcp.environment, "--grace", "1", "--cloud", "gcp")
    assert "watching gcp and SIGTERM" in process.stdout.readline()
    while not any("wait_for_change" in a for a in gcp.asked):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # while the request waits
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "notice (SIGTERM)" in output and "in 1 s" in output
    assert "does not answer" in output
    assert output.count("\n") == 2, output
