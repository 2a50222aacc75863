"""Storage at s3://: one server for a module's tests, a folder in it for each test. And a model hub of its own."""

import pytest

from tests.store.fake_hub import FakeHub, fake_hub
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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub and an empty cache of this machine; huggingface_hub knows no other."""
    from huggingface_hub import constants

    with fake_hub(FakeHub()) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running
