"""Storage at s3://: one server for a module's tests, a folder in it for each test."""

import pytest

from tests.store.object_store import BUCKET, no_fault, proxy, s3_server


@pytest.fixture(scope="module")
def gate():
    """The proxy before the S3 server."""
    with s3_server() as port, proxy(port) as made:
        yield made


@pytest.fixture
def root(gate, tmp_path, monkeypatch):
    """A folder of this test's own at s3://; the gate lets everything through; few and short pauses between attempts."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gate.fault = no_fault
    yield f"s3://{BUCKET}/{tmp_path.name}"
    gate.fault = no_fault
