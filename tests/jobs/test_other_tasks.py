"""Other tasks than ccs25, each by the commands alone: tables, cohort, run, report, export with ONNX, predict, MEDS."""

import json
import math

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from ckd.config import TaskConfig
from ckd.ehr.synthetic.tables import write_tables
from ckd.predict.meds import table_names
from ckd.predict.modelfolder import ModelFolder
from ckd.visits.taskfile import load_task
from jobs.cli import main
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


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_tables(str(folder), 60, 5)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("bert"), others=OTHERS)


@pytest.mark.parametrize(("name", "count"), [("readmission", 1), ("mixture", 18), ("ccs-all", 283)])
def test_a_task_runs_from_tables_to_predictions_without_a_fork(
    name, count, tables, bert, teacher_folder, tmp_path, capsys
):
    chosen = name
    if name == "mixture":
        (tmp_path / "labels.yaml").write_text(MIXTURE)
        chosen = str(tmp_path / "labels.yaml")
    task = load_task(TaskConfig(labels=chosen))
    assert len(task) == count
    cohort, results = tmp_path / "cohort", tmp_path / "results/t"
    choice = f"task.labels={chosen}"
    assert main(["ingest", "mimic3", str(tables), "--out", str(cohort), choice, *SETTINGS]) == 0
    words = [
        f"data.train={cohort}",
        choice,
        f"run.results={tmp_path}/results",
        "run.name=t",
        f"run.public_files={tmp_path}",
    ]
    words += [f"teacher.base_model={teacher_folder}/base", "teacher.dtype=float32", f"student.base_model={bert}"]
    words += ["student.epochs=1", "student.max_length=64", "head.epochs=3", "head.folds=3", "evaluation.resamples=100"]
    assert main(["run", *words]) == 0, capsys.readouterr().err
    metrics = json.loads((results / "metrics.json").read_text())
    assert list(metrics["held_out"]["student"]["per_label"]) == list(task.names)
    page = (results / "report.html").read_text()
    assert all(label in page for label in ("Group 158" if name == "mixture" else task.names[0],))
    assert ModelFolder.open(str(results / "student")).task.identity == task.identity

    assert main(["export", "model", "--onnx", "--out", str(tmp_path / "model"), *words]) == 0, capsys.readouterr().err
    figures = {}
    for engine, model in (("torch", results / "student"), ("onnx", tmp_path / "model")):
        out = tmp_path / f"predicted-{engine}"
        more = ["--meds", str(tmp_path / "meds")] if engine == "torch" else []
        assert main(["predict", str(cohort), "--model", str(model), "--engine", engine, "--out", str(out), *more]) == 0
        figures[engine] = {row["visit_id"]: row for row in pq.read_table(out / "predictions").to_pylist()}
    assert figures["torch"].keys() == figures["onnx"].keys()
    for visit, row in figures["torch"].items():
        assert row["probabilities"] == pytest.approx(figures["onnx"][visit]["probabilities"], abs=1e-5)

    _metrics_are_those_of_the_known_cells(metrics, task, cohort, figures["torch"])
    files = table_names(task)
    assert len(list((tmp_path / "meds").glob("*.parquet"))) == count
    table = pq.read_table(tmp_path / "meds" / files[task.names[0]])
    first = [row["labels"] and row["labels"][0] for row in figures["torch"].values()]
    assert sorted(map(str, table["boolean_value"].to_pylist())) == sorted(map(str, first))


def _metrics_are_those_of_the_known_cells(metrics, task, cohort, predicted):
    """scikit-learn on the cells that the cohort knows, of the student's own probabilities."""
    rows = [
        row for part in sorted(cohort.glob("*.parquet")) for row in pq.read_table(part, partitioning=None).to_pylist()
    ]
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
