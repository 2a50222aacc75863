"""`ckd predict --meds`: each label's table holds its column of the predictions; nothing of others is overwritten."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.predict.meds import SCHEMA, _who_and_when, table_names
from ckd.visits.labels import CCS25, DISEASES
from testbed.rows import write_jsonl
from tests.predict.predicting import predict, predicted, rows
from tests.predict.scored_student import make_student


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("model"))


def test_meds_tables_hold_each_label_s_column_of_the_predictions(model, tmp_path, capsys):
    given = [
        *rows(30),
        {"input": "w01", "visit_id": "nobody", "prediction_time": "2150-01-01"},
        {"input": "w02", "visit_id": "never", "subject_id": 5},
    ]
    given.append({"input": "w03", "visit_id": "named", "subject_id": "p7", "prediction_time": "2150-01-01"})
    given.append(
        {"input": "w04", "visit_id": "zoned", "subject_id": 99, "prediction_time": "2150-01-01T12:00:00+02:00"}
    )
    words = (
        write_jsonl(tmp_path / "in.json", given),
        "--model",
        model,
        "--out",
        tmp_path / "out",
        "--meds",
        tmp_path / "meds",
        "data.shard_rows=7",
    )
    assert predict(*words) == 0
    printed = capsys.readouterr().out
    assert "1 visits left out of the MEDS tables: without subject_id" in printed
    assert "1 visits left out of the MEDS tables: subject_id is no 64-bit integer" in printed
    assert "1 visits left out of the MEDS tables: without prediction_time" in printed
    found = predicted(tmp_path / "out")
    usable = sorted(
        (int(r["subject_id"]), r["visit_id"])
        for r in found.values()
        if r["visit_id"] not in ("nobody", "never", "named")
    )
    for j, disease in enumerate(DISEASES):
        table = pq.read_table(tmp_path / "meds" / table_names(CCS25)[disease])
        assert table.schema.equals(SCHEMA)
        wanted = [
            (
                int(found[v]["subject_id"]),
                None if found[v]["labels"] is None else found[v]["labels"][j],
                disease in found[v]["names"],
                found[v]["calibrated"][j],
            )
            for _, v in usable
        ]
        rows_found = [
            (r["subject_id"], r["boolean_value"], r["predicted_boolean_value"], r["predicted_boolean_probability"])
            for r in table.to_pylist()
        ]
        assert sorted(map(str, rows_found)) == sorted(map(str, wanted))
        times = {r["subject_id"]: r["prediction_time"].isoformat() for r in table.to_pylist()}
        assert times[99] == "2150-01-01T10:00:00"
    assert predict(*words) == 0
    assert f"{tmp_path}/meds is done" in capsys.readouterr().out


def test_meds_tables_never_go_over_others_files_and_say_when_nothing_fits(model, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    source = write_jsonl(tmp_path / "in.json", [{"input": "w01", "visit_id": "a"}])
    assert predict(source, "--model", model, "--out", tmp_path / "out", "--meds", tmp_path / "mine") == 2
    assert "holds files that are no folder of MEDS tables" in capsys.readouterr().err
    assert predict(source, "--model", model, "--out", tmp_path / "out", "--meds", tmp_path / "meds") == 2
    assert "need an integer subject_id and a prediction_time" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"] and not (tmp_path / "meds").exists()


def test_a_subject_that_is_not_written_as_an_integer_does_not_become_another_one():
    part = pa.table(
        {
            "subject_id": ["12", "0012", "-0", "+12", "-7", "0", str(2**63 - 1), str(2**63), None],
            "prediction_time": ["2150-01-01T00:00:00"] * 9,
        }
    )
    left_out = Counter()
    subjects, _, usable = _who_and_when(part, left_out)
    assert (subjects, usable) == ([12, -7, 0, 2**63 - 1], [0, 4, 5, 6])
    assert left_out == {"subject_id is no 64-bit integer": 4, "without subject_id": 1}
