"""Students of other tasks than ccs25: names, numbers and unknown labels come through predict, MEDS and the server."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from starlette.testclient import TestClient
from transformers import AutoModelForSequenceClassification

from ckd.errors import ConfigError
from ckd.predict.meds import table_names
from ckd.predict.modelfolder import ModelFolder
from ckd.predict.scorer import Scorer
from ckd.predict.serving.app import make_app
from ckd.store.artifacts import FolderArtifact
from ckd.visits.labels import CCS25
from ckd.visits.task import TASK_IN_CONFIG, Task
from ckd.visits.visit import Visit, to_table
from testbed.rows import write_jsonl
from tests.predict.predicting import predict, predicted
from tests.student.student_cohort import make_base


def task_of(count, **label):
    labels = [{"name": f"Label {k}", **(label or {"ccs": [k + 1]})} for k in range(count)]
    return Task.model_validate({"name": f"t{count}", "output": "May have: ", "labels": labels})


def make_student(folder: Path, task: Task) -> str:
    """An untrained student of a task, committed as by training, without a calibration."""
    base, made = make_base(folder / "base"), folder / "student"
    names = dict(enumerate(task.names))
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(task), id2label=names, label2id={name: k for k, name in names.items()}
    )
    setattr(model.config, TASK_IN_CONFIG, task.stored)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    model.save_pretrained(made)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made / name).write_bytes((folder / "base" / name).read_bytes())
    FolderArtifact(str(made), {"student.max_length": 32}).commit(sorted(path.name for path in made.iterdir()))
    return str(made)


@pytest.mark.parametrize("count", [1, 18, 283])
def test_any_number_of_labels_is_predicted_with_what_is_unknown_left_null(count, tmp_path):
    task = task_of(count)
    model = make_student(tmp_path, task)
    rows = [
        {
            "input": "w01 w02",
            "visit_id": "a",
            "subject_id": 1,
            "prediction_time": "2150-01-01",
            "output": "May have: Label 0",
        },
        {"input": "w03", "visit_id": "b", "subject_id": 2, "prediction_time": "2150-01-02", "output": "None"},
    ]
    rows[1]["unknown_labels"] = ["Label 0"]
    source = write_jsonl(tmp_path / "in.json", rows)
    assert predict(source, "--model", model, "--out", tmp_path / "out", "--meds", tmp_path / "meds") == 0
    found, scores = predicted(tmp_path / "out"), Scorer.load(model)(["w01 w02", "w03"])
    for place, visit in enumerate("ab"):
        np.testing.assert_allclose(found[visit]["probabilities"], scores.probabilities[place], atol=1e-6)
    first, second = found["a"]["labels"], found["b"]["labels"]
    assert first == [True, *[False] * (count - 1)]
    assert second == (None if count == 1 else [None, *[False] * (count - 1)])
    tables = table_names(task)
    assert len(set(tables.values())) == count
    table = pq.read_table(tmp_path / "meds" / tables["Label 0"]).sort_by("subject_id").to_pylist()
    assert [row["boolean_value"] for row in table] == [True, None]
    wanted = [found[visit]["probabilities"][0] for visit in "ab"]
    assert [row["predicted_boolean_probability"] for row in table] == wanted


def test_the_server_names_the_task_s_labels_and_its_page_says_what_they_are(tmp_path):
    task = task_of(1, readmission_days=30)
    scorer = Scorer.load(make_student(tmp_path, task))
    with TestClient(make_app(scorer, scorer.model.task, {}), base_url="http://127.0.0.1") as client:
        answer = client.post("/predict", json={"visits": [{"input": "w01"}]}).json()["visits"][0]
        assert list(answer["probabilities"]) == ["Label 0"]
        about = client.get("/openapi.json").json()["info"]["description"]
    assert about == "Probabilities of Label 0, from a visit's text: an association."


def test_labels_of_another_task_in_the_input_are_not_read_and_that_is_said(tmp_path, capsys):
    model = make_student(tmp_path, task_of(3))
    visit = Visit("v", "i", "w01", (True,) * 25, subject_id="1", split="train")
    pq.write_table(to_table([visit], len(CCS25)), tmp_path / "in.parquet")
    assert predict(tmp_path / "in.parquet", "--model", model, "--out", tmp_path / "out") == 0
    assert "labels of another task (25 labels) are not read" in capsys.readouterr().out
    assert predicted(tmp_path / "out")["v"]["labels"] is None


def test_labels_whose_files_would_have_one_name_get_two():
    labels = [{"name": name, "ccs": [1]} for name in ("A b", "A-b", "?", "Shock")]
    names = table_names(Task.model_validate({"name": "t", "labels": labels}))
    assert list(names.values()) == ["a_b.parquet", "a_b_2.parquet", "3.parquet", "shock.parquet"]


def test_a_task_that_names_other_labels_than_the_model_is_refused(tmp_path):
    folder = make_student(tmp_path, task_of(3))
    path = Path(folder) / "config.json"
    content = json.loads(path.read_text())
    content["id2label"]["1"] = "Other"
    path.write_text(json.dumps(content))
    files = sorted(each.name for each in Path(folder).iterdir() if each.name != "artifact.json")
    FolderArtifact(folder, {"student.max_length": 32}).commit(files)
    with pytest.raises(ConfigError, match="id2label and ckd_task name other labels"):
        ModelFolder.open(folder)
