"""A storage that refuses: the code that it gave, whatever kind of request it was, and the variable to look at."""

import pytest
from huggingface_hub import close_session

from ckd.errors import ConfigError, UnreachableError
from ckd.store import filesystems
from ckd.store.files import exists, list_files, read_bytes, write_bytes
from ckd.store.hub import readable
from ckd.store.refusals import proxies, reason, remedy
from jobs.cli import main
from tests.store.fake_hub import FakeHub, fake_hub
from tests.store.object_store import REFUSALS, free_port

LOOK_AT = {
    "ExpiredToken": "AWS_SESSION_TOKEN",
    "InvalidToken": "AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock",
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY",
    "AuthorizationHeaderMalformed": "AWS_REGION",
    "PermanentRedirect": "AWS_REGION",
}


def requests(root):
    """One of each kind: HEAD answers have no body, so only the status comes with them."""
    yield lambda: read_bytes(f"{root}/x")
    yield lambda: exists(f"{root}/x")
    yield lambda: list(list_files(root))
    yield lambda: write_bytes(f"{root}/x", b"1")


@pytest.mark.parametrize("code", REFUSALS)
def test_every_kind_of_request_names_the_services_code_and_the_variable(root, gate, code):
    for ask in requests(root):
        gate.fault = lambda number, method, path: code
        with pytest.raises(UnreachableError) as refused:
            ask()
        said = str(refused.value)
        assert code.lower() in said.replace("_", "").lower() and LOOK_AT[code] in said
        assert "UNKNOWN" not in said and said.count("\n") == 0


def test_a_refusal_of_which_no_request_tells_more_keeps_its_status(root, gate):
    gate.fault = lambda number, method, path: 403 if method == "HEAD" else None
    with pytest.raises(UnreachableError, match=r"\(ACCESS_DENIED\); check AWS_SESSION_TOKEN"):
        exists(f"{root}/x")


@pytest.mark.parametrize("behind", ["/minio", "/?region=x", "/minio/"])
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_with_a_path_is_refused_by_its_variables_name_and_not_shown(
    root, gate, monkeypatch, variable, behind
):
    for value in (gate.url + behind, gate.url.replace("://", "://key:secret@")):
        monkeypatch.setenv(variable, value)
        for ask in requests(root):
            with pytest.raises(ConfigError, match=f"^{variable}: expected https://host:port") as refused:
                ask()
            assert "secret" not in str(refused.value)


def test_an_endpoint_may_end_in_a_slash(root, gate, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.url + "/")
    write_bytes(f"{root}/x", b"1")
    assert read_bytes(f"{root}/x") == b"1"


@pytest.fixture
def dead_proxy(monkeypatch):
    """Nothing listens at the proxy that the environment names for everything."""
    for name in ("https_proxy", "http_proxy", "no_proxy", "NO_PROXY", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    close_session()  # the Hub's client keeps the proxy that it was made with
    yield
    close_session()


def test_a_dead_proxy_is_named_where_google_does_not_answer(dead_proxy, monkeypatch):
    from datetime import timedelta

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(filesystems, "_GCS_PATIENCE", timedelta(seconds=1))
    filesystems._gcs.cache_clear()
    with pytest.raises(
        UnreachableError, match="check the network.* and STORAGE_EMULATOR_HOST and the proxy of http_pro"
    ):
        read_bytes("gs://bucket/x")
    filesystems._gcs.cache_clear()


def test_s3_says_that_it_goes_past_a_proxy(root, dead_proxy, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    said = (
        r"NETWORK_CONNECTION.*; check the network and AWS_ENDPOINT_URL \(requests to S3 go past the proxy of http_pro"
    )
    with pytest.raises(UnreachableError, match=said):
        read_bytes(f"{root}/x")


def test_a_dead_proxy_is_named_where_the_hub_or_a_cluster_does_not_answer(hub, dead_proxy, monkeypatch, capsys):
    with pytest.raises(UnreachableError, match="check the network and HF_ENDPOINT and the proxy of http_proxy"):
        readable("teacher.base_model", "org/none", "config.json")
    with fake_hub(FakeHub()) as dashboard:
        words = ["submit", "doctor", "--address", dashboard.url]
        assert main(words) == 3
    assert "check the address and the proxy of http_proxy" in capsys.readouterr().err


def test_what_is_no_services_answer_has_no_reason():
    assert reason(OSError("Parquet magic bytes not found")) is None
    assert remedy("SLOW_DOWN: reduce", "s3://b").startswith("check the network, the URL and this machine's credentials")
    assert proxies() == "" or proxies().startswith("the proxy of ")
