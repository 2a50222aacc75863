"""The HTTP application around a fake student: what it answers and refuses, and that nothing repeats a visit's text."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.testclient import TestClient

from ckd.predict.serving.app import make_app
from ckd.predict.serving.guard import Limits
from ckd.predict.serving.schema import MAX_CHARACTERS, MAX_VISITS
from ckd.visits.labels import CCS25, DISEASES, NUM_LABELS

MARKER = "zanzibar-4711"
IDENTITY = {"student": "abc", "engine": "torch"}


def scores(texts, calibrated=True):
    """A fake student: the logit of label i is (length + i) / 50.

    It fails on texts with 'crash', with the text in the error's message.
    """
    if any("crash" in text for text in texts):
        raise ValueError(f"cannot read {texts}")
    logits = np.array([[(len(text) + i) / 50 for i in range(NUM_LABELS)] for text in texts], np.float32)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    better = probabilities / 2 if calibrated else None
    flags = better >= 0.35 if calibrated else None
    return SimpleNamespace(
        probabilities=probabilities, calibrated=better, flags=flags, truncated=np.array([len(t) > 20 for t in texts])
    )


def client(token=None, score=scores, **limits):
    return TestClient(
        make_app(score, CCS25, IDENTITY, token, Limits(**limits)),
        base_url="http://127.0.0.1",
        raise_server_exceptions=True,
    )


@pytest.fixture
def open_client():
    with client() as made:
        yield made


def ask(made, texts, **more):
    return made.post(
        "/predict", json={"visits": [{"visit_id": str(i), "input": text} for i, text in enumerate(texts)]}, **more
    )


def test_an_answer_has_probabilities_by_name_calibrated_ones_names_and_the_model(open_client):
    answer = ask(open_client, ["short", "a text that is longer than twenty characters"])
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == IDENTITY
    assert [visit["visit_id"] for visit in body["visits"]] == ["0", "1"]
    wanted = scores(["short"])
    first = body["visits"][0]
    assert list(first["probabilities"]) == list(DISEASES)
    assert list(first["probabilities"].values()) == pytest.approx(wanted.probabilities[0].tolist())
    assert list(first["calibrated"].values()) == pytest.approx(wanted.calibrated[0].tolist())
    assert first["names"] == [name for name, flag in zip(DISEASES, wanted.flags[0], strict=True) if flag]
    assert [visit["truncated"] for visit in body["visits"]] == [False, True]


def test_without_a_calibration_the_answer_says_null():
    with client(score=lambda texts: scores(texts, calibrated=False)) as made:
        visit = made.post("/predict", json={"visits": [{"input": "x"}]}).json()["visits"][0]
    assert visit["calibrated"] is None
    assert visit["names"] is None
    assert visit["visit_id"] is None


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "visits"),
        ({"visits": []}, "visits"),
        ({"visits": None}, "visits"),
        ({"visits": [{"input": ""}]}, "visits.0.input"),
        ({"visits": [{"input": " \n"}]}, "visits.0.input"),
        ({"visits": [{"input": "x"}, {"input": 5}]}, "visits.1.input"),
        ({"visits": [{"input": [MARKER]}]}, "visits.0.input"),
        ({"visits": [{"visit_id": 7, "input": "x"}]}, "visits.0.visit_id"),
        ({"visits": [{"visit_id": "", "input": "x"}]}, "visits.0.visit_id"),
        ({"visits": [{"visit_id": MARKER * 20, "input": "x"}]}, "visits.0.visit_id"),
        ({"visits": [{"input": "x", MARKER: "x"}]}, "visits.0.(unknown key)"),
        ({"visits": [{"input": "x" * (MAX_CHARACTERS + 1)}]}, "visits.0.input"),
        ({"visits": [{"input": "x"}] * (MAX_VISITS + 1)}, "visits"),
        ({"visits": [{}]}, "visits.0"),
        ({"visits": [{"input": "x", "medications": []}]}, "visits.0"),
        ({"visits": [{"diagnoses": [{"code": MARKER}]}]}, "visits.0.diagnoses.0.version"),
        ({"visits": [{"diagnoses": [{"code": "I10", "version": "11"}]}]}, "visits.0.diagnoses.0.version"),
        ({"visits": [{"medications": [""]}]}, "visits.0.medications.0"),
        ({"visits": [MARKER]}, "visits.0"),
        ({"visits": MARKER}, "visits"),
        ([MARKER], "body"),
        (MARKER, "body"),
    ],
)
def test_a_bad_request_is_refused_with_its_place_and_without_its_content(open_client, body, where):
    answer = open_client.post("/predict", json=body)
    assert answer.status_code == 422
    assert [detail["where"] for detail in answer.json()["details"]] == [where]
    assert all(detail["what"] for detail in answer.json()["details"])
    assert MARKER not in answer.text


CODED = {"diagnoses": [{"code": "I10", "version": "10"}], "medications": ["Aspirin"]}


def test_codes_and_drugs_are_written_as_a_text_or_refused_where_nobody_can(open_client):
    answer = open_client.post("/predict", json={"visits": [{"input": "x"}, CODED]})
    assert answer.status_code == 422 and "visits.1: codes and drugs are taken where" in answer.json()["error"]
    app = make_app(scores, CCS25, IDENTITY, write=lambda visit: f"{visit.diagnoses[0].code} {visit.medications[0]}")
    with TestClient(app, base_url="http://127.0.0.1") as made:
        coded, text = made.post("/predict", json={"visits": [CODED, {"input": "I10 Aspirin"}]}).json()["visits"]
    assert coded == text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a valid request"),
        (b"{", "broken JSON"),
        (b'{"visits": [{"input": "' + MARKER.encode(), "broken JSON"),
        (b'{"visits": [{"input": NaN}]}', "NaN"),
        (b'{"visits": [], "visits": [{"input": "x"}]}', "repeated key"),
        (b'{"visits": [{"input": "\xff\xfe"}]}', "UTF-8"),
        (b'{"visits": [{"input": "\\ud800"}]}', "not a valid request"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_a_body_that_is_no_json_of_ours_is_refused(open_client, data, says):
    answer = open_client.post("/predict", content=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert says in answer.json()["error"]
    assert MARKER not in answer.text


def test_another_content_type_is_refused_so_that_no_web_page_can_post_from_a_browser_unasked(open_client):
    body = json.dumps({"visits": [{"input": MARKER}]})
    answer = open_client.post("/predict", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]
    assert MARKER not in answer.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused_before_it_is_kept(chunked):
    with client(body_bytes=1000) as made:
        body = json.dumps({"visits": [{"input": MARKER * 200}]}).encode()
        answer = made.post(
            "/predict", content=iter([body]) if chunked else body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413
        assert "1000 bytes" in answer.json()["error"]
        assert MARKER not in answer.text
        assert ask(made, ["x"]).status_code == 200


def test_many_errors_are_told_in_part_and_counted(open_client):
    answer = open_client.post("/predict", json={"visits": [{"input": ""}] * 50}).json()
    assert len(answer["details"]) == 20
    assert "20 of 50" in answer["error"]


def test_with_a_token_every_route_but_the_health_check_asks_for_it():
    token = "s" * 20
    with client(token) as made:
        for path in ("/metrics", "/openapi.json", "/docs", "/nowhere"):
            assert made.get(path).status_code == 401
        assert ask(made, ["x"]).status_code == 401
        assert ask(made, ["x"], headers={"Authorization": "Bearer " + "s" * 19}).status_code == 401
        assert ask(made, ["x"], headers={"Authorization": token}).status_code == 401
        right = {"Authorization": f"Bearer {token}"}
        assert ask(made, ["x"], headers=right).status_code == 200
        assert made.get("/metrics", headers={**right, "Host": "ckd.hospital.example"}).status_code == 200
        assert made.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
    ],
)
def test_without_a_token_only_loopback_names_are_answered_so_that_no_foreign_page_gets_in_by_dns(
    open_client, host, status
):
    assert open_client.get("/metrics", headers={"Host": host}).status_code == status


def test_a_request_that_crashes_the_model_fails_alone_and_quietly(caplog):
    with client() as made:
        assert ask(made, [f"{MARKER} crash"]).status_code == 500
        assert MARKER not in ask(made, [f"{MARKER} crash"]).text
        assert ask(made, ["x"]).status_code == 200
    assert "ValueError at test_serving.py:" in caplog.text
    assert MARKER not in caplog.text


def test_unknown_paths_and_methods_are_refused_and_stand_in_no_metric(open_client):
    assert open_client.get(f"/{MARKER}").status_code == 404
    assert open_client.get(f"/predict?text={MARKER}").status_code == 405
    page = open_client.get("/metrics").text
    assert 'ckd_serve_requests_total{route="other",status="404"} 1.0' in page
    assert MARKER not in page


def test_the_metrics_count_requests_visits_and_batches(open_client):
    ask(open_client, ["a", "b", MARKER])
    open_client.post("/predict", json={"visits": MARKER})
    page = open_client.get("/metrics").text
    assert 'ckd_serve_requests_total{route="/predict",status="200"} 1.0' in page
    assert 'ckd_serve_requests_total{route="/predict",status="422"} 1.0' in page
    assert "ckd_serve_visits_total 3.0" in page
    assert 'ckd_serve_batch_visits_bucket{le="4.0"} 1.0' in page
    assert "ckd_serve_queue_visits 0.0" in page
    assert "process_resident_memory_bytes" in page
    assert MARKER not in page


def test_the_page_shows_the_schema_and_loads_nothing(open_client):
    schema = open_client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/predict", "/healthz", "/metrics"}
    text, _ = schema["components"]["schemas"]["VisitIn"]["properties"]["input"]["anyOf"]
    assert text["maxLength"] == MAX_CHARACTERS
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    page = open_client.get("/docs")
    assert "POST /predict" in page.text
    assert "VisitIn" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_a_model_that_is_too_slow_or_busy_is_a_503_that_says_when_to_come_back():
    go = threading.Event()

    def score(texts):
        assert go.wait(20)
        return scores(texts)

    with client(score=score, answer_seconds=0.2, waiting=1) as made:
        slow = ask(made, ["x"])  # in the model, for ever
        assert slow.status_code == 503
        assert int(slow.headers["Retry-After"]) >= 1
        busy = ask(made, ["x", "y"])
        assert busy.status_code == 503
        assert "busy" in busy.json()["error"]
        go.set()
