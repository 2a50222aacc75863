"""Labels that the input holds: columns of the visits, MEDS label tables, each row at its visit or counted."""

import json
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.config import TaskConfig
from ckd.visits.taskfile import load_task
from jobs.cli import main
from tests.ehr.ehr_tables import write_meds, write_tables
from tests.ehr.ingest_reference import ingest
from tests.predict.predicting import predict
from tests.predict.scored_student import make_student

FIRST, SECOND = map(datetime.fromisoformat, ("2150-01-05 12:00:00", "2151-01-05 12:00:00"))  # discharges


def events(subjects=8):
    """MEDS events of patients who return after a year, each visit with a diagnosis."""
    found = []
    for subject in range(1, subjects + 1):
        for visit, end in ((10 * subject, FIRST), (10 * subject + 1, SECOND)):
            start = end - timedelta(days=4)
            codes = (("HOSPITAL_ADMISSION//EMERGENCY//ER", start), ("HOSPITAL_DISCHARGE//HOME", end))
            codes += (("DIAGNOSIS//ICD//9//5849", end), ("MEDICATION//START//Zinc", start))
            found += [{"subject_id": subject, "time": time, "code": code, "hadm_id": visit} for code, time in codes]
    return found


def write_labels(path, rows, **more):
    columns = {name: [row.get(name) for row in rows] for name in ("subject_id", "prediction_time", "boolean_value")}
    table = {"subject_id": pa.array(columns["subject_id"], pa.int64())}
    table["prediction_time"] = pa.array(columns["prediction_time"], pa.timestamp("us"))
    table["boolean_value"] = pa.array(columns["boolean_value"], pa.bool_())
    pq.write_table(pa.table({**table, **more}), path)
    return str(path)


def label(subject, time, value):
    return {"subject_id": subject, "prediction_time": time, "boolean_value": value}


@pytest.fixture
def meds(tmp_path):
    return str(write_meds(tmp_path / "meds", events()))


def test_a_row_of_a_label_table_is_the_label_of_the_visit_that_has_ended_by_then(tmp_path, meds, capsys):
    rows = [label(1, FIRST, True), label(2, FIRST + timedelta(days=3), False), label(3, SECOND, True)]
    rows += [label(4, FIRST - timedelta(hours=1), True)]  # during the stay
    rows += [label(4, FIRST + timedelta(days=4), True), label(99, FIRST, True), label(5, None, True)]
    rows += [label(6, FIRST, True), label(6, FIRST + timedelta(days=1), False), label(7, SECOND, None)]
    path = write_labels(tmp_path / "mortality.parquet", rows)
    made = ingest(meds, tmp_path / "out", "--labels", path, kind="meds")
    found = {visit: row["labels"] for visit, row in made.items() if row["labels"]}
    assert found == {"10": [True], "20": [False], "31": [True]} and len(made) == 16
    assert {row["current_labels"] for row in made.values()} == {None}
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    counted = card["rows"]["given"]
    assert (counted["read"], counted["used"]) == (10, 4)
    first = {reason: (each["rows"], each["first"].rpartition(":")[2]) for reason, each in counted["rejected"].items()}
    assert first == {
        "no visit between discharge and prediction then": (3, "4"),
        "no prediction time": (1, "7"),
        "two values for one visit": (2, "8"),
    }
    said = capsys.readouterr().out
    assert "given: 3 of 10 rows not used: no visit between discharge and prediction then" in said
    assert f"task.labels={tmp_path / 'out' / 'labels.yaml'}" in said


def test_the_task_of_label_tables_lies_beside_the_parts_and_reads_them(tmp_path, meds):
    paths = [
        write_labels(tmp_path / f"{name}.parquet", [label(n, FIRST, n % 2 == odd) for n in range(1, 9)])
        for odd, name in enumerate(("icu_mortality", "readmission 30d"))
    ]
    out = tmp_path / "out"
    made = ingest(meds, out, "--labels", paths[0], "--labels", paths[1], kind="meds")
    assert {tuple(row["labels"]) for row in made.values() if row["labels"]} == {(True, False), (False, True)}
    task = load_task(TaskConfig(labels=str(out / "labels.yaml")))
    assert task.names == ("icu_mortality", "readmission 30d") and task.name == "meds-labels"
    assert main(["validate", f"data.train={out}", f"task.labels={out / 'labels.yaml'}"]) == 0
    assert main(["validate", f"data.train={out}", "task.labels=readmission"]) == 2
    again = ingest(meds, out, "--labels", paths[0], "--labels", paths[1], kind="meds")
    assert again == made and "labels.yaml" in json.loads((out / "artifact.json").read_text())["files"]


def test_a_task_of_one_s_own_takes_its_given_labels_from_the_tables(tmp_path, meds):
    (tmp_path / "l.yaml").write_text(
        "name: t\nlabels:\n  - {name: Renal, ccs: [157]}\n  - {name: Dead, given: mortality}\n"
        "  - {name: Any, any_of: [Renal, Dead]}\n"
    )
    path = write_labels(tmp_path / "mortality.parquet", [label(1, SECOND, True), label(2, SECOND, False)])
    settings = ("--labels", path, f"task.labels={tmp_path / 'l.yaml'}")
    made = ingest(meds, tmp_path / "out", *settings, kind="meds")
    assert made["10"]["labels"] == [True, None, True] and made["11"]["labels"] == [None, True, True]
    assert made["21"]["labels"] == [None, False, None] and made["31"]["labels"] is None
    assert made["10"]["current_labels"] == [True, None, None]


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("t.parquet", {"subject_id": [1], "prediction_time": [FIRST]}, "no column 'boolean_value'"),
        (
            "t.parquet",
            {"subject_id": [1], "prediction_time": [FIRST], "boolean_value": [0.5]},
            "boolean_value is Float",
        ),
        (
            "t.parquet",
            {
                "subject_id": [1],
                "prediction_time": [FIRST],
                "boolean_value": pa.array([None], pa.bool_()),
                "float_value": [0.5],
            },
            "a label of numbers or categories, which nothing here predicts",
        ),
        ("gone.csv", None, "no such file"),
    ],
)
def test_other_label_tables_are_refused_in_words(tmp_path, meds, capsys, name, table, said):
    if table:
        pq.write_table(pa.table(table), tmp_path / name)
    assert main(["ingest", "meds", meds, "--out", str(tmp_path / "out"), "--labels", str(tmp_path / name)]) == 2
    line = capsys.readouterr().err
    assert said in line and str(tmp_path / name) in line and len(line.splitlines()) == 1


def test_a_label_that_no_table_gives_and_a_table_that_no_label_takes_are_refused(tmp_path, meds, capsys):
    (tmp_path / "l.yaml").write_text("name: t\nlabels:\n  - {name: Dead, given: mortality}\n")
    arguments = ["ingest", "meds", meds, "--out", str(tmp_path / "out"), f"task.labels={tmp_path / 'l.yaml'}"]
    assert main(arguments) == 2 and "give --labels mortality.parquet" in capsys.readouterr().err
    path = write_labels(tmp_path / "mortality.parquet", [label(1, FIRST, True)])
    other = write_labels(tmp_path / "other.parquet", [label(1, FIRST, True)])
    assert main([*arguments, "--labels", path, "--labels", other]) == 2
    assert "no label of task 't' is given by 'other'" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    twice = write_labels(tmp_path / "b" / "other.parquet", [label(1, FIRST, True)])
    assert main([*arguments[:5], "--labels", other, "--labels", twice]) == 2
    assert "two files are named 'other'" in capsys.readouterr().err


def generic(values):
    """Generic tables of eight patients who return, with a column `Follow` of these values in turn."""
    tables = {"visits": [], "diagnoses": []}
    for subject in range(1, 9):
        for number, end in enumerate((FIRST, SECOND)):
            visit = f"v{subject}{number}"
            row = {"visit_id": visit, "subject_id": f"s{subject}", "start": end - timedelta(days=4), "end": end}
            value = values[(2 * subject + number) % len(values)]
            tables["visits"].append({**row, "died": 0, "follow": value})
            tables["diagnoses"].append({"visit_id": visit, "subject_id": f"s{subject}", "code": "5849", "version": 9})
    columns = {"visits": "visit_id subject_id start end died follow"}
    return tables, columns


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_of_the_visits_is_a_label_unknown_where_it_is_empty(tmp_path, suffix):
    (tmp_path / "l.yaml").write_text("name: t\nlabels:\n  - {name: Came, given: Follow}\n  - {name: R, ccs: [157]}\n")
    values = ["yes", "", "0", "No"] if suffix == ".csv" else [True, None, False, False]
    tables, columns = generic(values)
    if suffix == ".parquet":
        tables["diagnoses"] = [{**row, "version": "9"} for row in tables["diagnoses"]]
    folder = write_tables(tmp_path / "in", tables, columns=columns, suffix=suffix)
    made = ingest(folder, tmp_path / "out", f"task.labels={tmp_path / 'l.yaml'}", kind="tables")
    wanted = [True, None, False, False]
    for visit, row in made.items():
        found = [wanted[(2 * int(visit[1]) + int(visit[2])) % 4], True if visit.endswith("0") else None]
        assert row["labels"] == (found if found != [None, None] else None)


def test_a_value_that_is_no_flag_and_a_column_that_is_not_there_are_named(tmp_path, capsys):
    (tmp_path / "l.yaml").write_text("name: t\nlabels:\n  - {name: Came, given: follow}\n")
    tables, columns = generic(["yes", "perhaps"])
    arguments = ["--out", str(tmp_path / "out"), f"task.labels={tmp_path / 'l.yaml'}"]
    folder = write_tables(tmp_path / "in", tables, columns=columns)
    assert main(["ingest", "tables", str(folder), *arguments]) == 2
    line = capsys.readouterr().err
    assert "visits.csv:3: a given label is neither" in line and "perhaps" not in line
    write_tables(tmp_path / "other", tables)
    assert main(["ingest", "tables", str(tmp_path / "other"), *arguments]) == 2
    assert "label 'Came' is given by column 'follow', which the visits have not; there are" in capsys.readouterr().err


def test_the_tables_that_predict_writes_are_label_tables_of_the_same_visits(tmp_path, meds):
    cohort = ingest(meds, tmp_path / "cohort", kind="meds")
    model = make_student(tmp_path / "model")
    assert predict(tmp_path / "cohort", "--model", model, "--out", tmp_path / "p", "--meds", tmp_path / "m") == 0
    path = tmp_path / "m" / "acute_and_unspecified_renal_failure.parquet"
    back = ingest(meds, tmp_path / "back", "--labels", str(path), kind="meds")
    assert {v: row["labels"] for v, row in back.items()} == {
        v: row["labels"] and row["labels"][:1] for v, row in cohort.items()
    }
    assert sum(row["labels"] == [True] for row in back.values()) == 8
