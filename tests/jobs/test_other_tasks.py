"""Tasks other than ccs25 by the commands alone: tables, cohort, run, report, export with ONNX, predict, serve, MEDS."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from starlette.testclient import TestClient

from ckd.configfile import load
from ckd.ehr.synthetic.tables import write_tables
from ckd.evaluation import baselines
from ckd.evaluation.baselines import BASELINES
from ckd.predict.meds import table_names
from ckd.predict.modelfolder import ModelFolder
from ckd.predict.scorer import Scorer
from ckd.predict.serving.app import make_app
from ckd.visits.taskfile import load_task
from jobs.cli import main
from tests.ehr.mimic_rows import has_open_data, open_data
from tests.student.student_cohort import OTHERS, make_base

SETTINGS = ("ingest.min_support=2", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
MIXTURE = """\
name: mixture
labels:
  - {name: Back within 90 days, readmission_days: 90}
  - {name: Death within a year, death_days: 365}
  - {name: Kidney failure, icd9: [584-586]}
  - {name: Heart failure within a year, icd9: [428], within_days: 365}
  - {name: Either, any_of: [Kidney failure]}
""" + "".join(
    f"  - {{name: Group {ccs}, ccs: [{ccs}]}}\n" for ccs in (49, 50, 53, 55, 98, 99, 101, 106, 108, 122, 127, 158, 2)
)


SOURCES = {"synthetic": "mimic3", "mimic4_demo": "mimic4"}
COUNTS = {"readmission": 1, "mixture": 18, "ccs-all": 283}


class Study:
    """A hospital's tables and one run on them, which is the task readmission's; the other tasks stand below it."""

    def __init__(self, kind, tables, folder, models):
        self.kind, self.tables, self.folder = kind, str(tables), folder
        self.words = [f"run.results={folder}/results", "run.name=t", f"run.public_files={folder}", *models]
        self.words += ["task.instruction=generic", "teacher.dtype=float32", "teacher.max_length=128"]
        self.words += ["student.epochs=1", "student.max_length=64", "head.epochs=3", "head.folds=3"]
        self.words += ["evaluation.resamples=100"]

    def chosen(self, name):
        """The words of a task's configuration."""
        (self.folder / "labels.yaml").write_text(MIXTURE)
        labels = f"{self.folder}/labels.yaml" if name == "mixture" else name
        own = [] if name == "readmission" else [f"run.task={name}"]
        return [*self.words, f"data.train={self.cohort(name)}", f"task.labels={labels}", *own]

    def engine(self, name):
        """ONNX, whose export costs most of a case: of two tasks only on the open demo, where that is there."""
        return "torch" if self.kind == "mimic3" and name != "ccs-all" and has_open_data() else "onnx"

    def cohort(self, name):
        return self.folder / f"cohort-{name}"

    def ingest(self, name):
        labels = next(word for word in self.chosen(name) if word.startswith("task.labels="))
        assert main(["ingest", self.kind, self.tables, "--out", str(self.cohort(name)), labels, *SETTINGS]) == 0


@pytest.fixture(scope="module", params=list(SOURCES))
def study(request, tmp_path_factory, teacher_folder):
    folder = tmp_path_factory.mktemp("study")
    kind = SOURCES[request.param]
    if request.param == "synthetic":
        tables = folder / "tables"
        write_tables(str(tables), 60, 5)
    else:
        tables = open_data() / request.param
    bert = make_base(folder / "bert", others=OTHERS)
    made = Study(kind, tables, folder, [f"teacher.base_model={teacher_folder}/base", f"student.base_model={bert}"])
    made.ingest("readmission")
    assert main(["embed", *made.chosen("readmission")]) == 0
    return made


@pytest.mark.parametrize("name", list(COUNTS))
def test_a_task_runs_from_tables_to_predictions_without_a_fork(name, study, monkeypatch, tmp_path, capsys):
    if name == "ccs-all":  # 283 regressions each
        few = {name: BASELINES[name] for name in ("prevalence", "persistence")}
        monkeypatch.setattr(baselines, "BASELINES", few)
    monkeypatch.setattr("ckd.teacher.embed.load_engine", lambda *_: pytest.fail("the teacher has read all visits"))
    words = study.chosen(name)
    if name != "readmission":
        study.ingest(name)
    config = load(None, words)
    task, results = load_task(config.task), Path(config.run.folder)
    assert len(task) == COUNTS[name]
    assert main(["run", *words]) == 0, capsys.readouterr().err
    metrics = json.loads((results / "metrics.json").read_text())
    assert list(metrics["held_out"]["student"]["per_label"]) == list(task.names)
    page = (results / "report.html").read_text()
    assert ("Group 158" if name == "mixture" else task.names[0]) in page
    assert ModelFolder.open(str(results / "student")).task.identity == task.identity
    assert main(["verify", *words]) == 0, capsys.readouterr().out

    engine = study.engine(name)
    onnx, model, cohort = ["--onnx"] if engine == "onnx" else [], tmp_path / "model", study.cohort(name)
    assert main(["export", "model", *onnx, "--out", str(model), *words]) == 0, capsys.readouterr().err
    predicted = predictions(cohort, results / "student", "torch", tmp_path / "one", "--meds", str(tmp_path / "meds"))
    exported = predictions(cohort, model, engine, tmp_path / "other")
    assert predicted.keys() == exported.keys()
    for visit, row in predicted.items():
        assert row["probabilities"] == pytest.approx(exported[visit]["probabilities"], abs=1e-5)

    rows = cohort_rows(cohort)
    _metrics_are_those_of_the_known_cells(metrics, task, rows, predicted)
    _the_server_says_the_same(Scorer.load(str(model), engine), task, rows[:2], predicted)
    assert len(list((tmp_path / "meds").glob("*.parquet"))) == len(task)
    table = pq.read_table(tmp_path / "meds" / table_names(task)[task.names[0]])
    first = [row["labels"] and row["labels"][0] for row in predicted.values()]
    assert sorted(map(str, table["boolean_value"].to_pylist())) == sorted(map(str, first))


def predictions(cohort, model, engine, out, *more):
    """What `ckd predict` says of a cohort: visit_id -> row."""
    assert main(["predict", str(cohort), "--model", str(model), "--engine", engine, "--out", str(out), *more]) == 0
    return {row["visit_id"]: row for row in pq.read_table(out / "predictions").to_pylist()}


def cohort_rows(cohort):
    parts = sorted(cohort.glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part, partitioning=None).to_pylist()]


def _the_server_says_the_same(scorer, task, rows, predicted):
    with TestClient(make_app(scorer, scorer.model.task, {}), base_url="http://127.0.0.1") as client:
        answer = client.post("/predict", json={"visits": [{"input": row["input"]} for row in rows]}).json()
    for row, said in zip(rows, answer["visits"], strict=True):
        assert list(said["probabilities"]) == list(task.names)
        wanted = predicted[row["visit_id"]]["probabilities"]
        assert list(said["probabilities"].values()) == pytest.approx(wanted, abs=1e-5)


def _metrics_are_those_of_the_known_cells(metrics, task, rows, predicted):
    """scikit-learn on the cells that the cohort knows, of the student's own probabilities."""
    rows = [row for row in rows if row["split"] == "held_out" and row["labels"]]
    compared = 0
    for place, name in enumerate(task.names):
        known = [row for row in rows if row["labels"][place] is not None]
        truth = [row["labels"][place] for row in known]
        found = metrics["held_out"]["student"]["per_label"][name]
        if len(set(truth)) == 2:
            scores = [predicted[row["visit_id"]]["probabilities"][place] for row in known]
            assert math.isclose(found["auroc"], roc_auc_score(truth, scores), abs_tol=1e-6)
            compared += 1
        else:
            assert found["auroc"] is None
    assert compared > len(task) // 12
