"""`ckd ingest --like`: patients as they are now, each one's last stay, written as the cohort's texts are."""

import json

import pytest

from ckd.ehr.synthetic import tables as synthetic_tables
from tests.ehr.ehr_tables import as_mimic4, write_mimic3, write_mimic4
from tests.ehr.ingest_reference import ingest, read_tables
from tests.predict.predicting import predict, predicted
from tests.predict.scored_student import make_student


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    synthetic_tables.write_tables(str(folder), 120, 3)
    return read_tables(folder)


@pytest.fixture(scope="module")
def cohort(synthetic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return ingest(write_mimic3(folder / "in", synthetic), folder / "out", "ingest.min_support=2"), folder / "out"


def now(tables, cohort, folder, *more, **kind):
    return ingest(tables, folder / "now", "--like", str(cohort), *more, **kind)


def test_everybody_s_last_stay_is_written_as_in_the_cohort_and_nothing_is_a_label(synthetic, cohort, tmp_path):
    rows, out = cohort
    found = now(write_mimic3(tmp_path / "in", synthetic), out, tmp_path)
    last = {visit for visit, row in rows.items() if row["labels"] is None}
    assert set(found) == last and len(last) > 50
    assert {row["labels"] for row in found.values()} == {None}
    others = {visit for visit in last if rows[visit]["split"] != "train"}
    assert others and {visit: found[visit]["input"] for visit in others} == {v: rows[v]["input"] for v in others}
    same = ("subject_id", "prediction_time", "age", "sex", "current_labels")
    assert all(found[visit][name] == rows[visit][name] for visit in last for name in same)
    assert not (tmp_path / "now" / "association.csv").exists()
    assert json.loads((tmp_path / "now" / "card.json").read_text())["to_score"] == len(last)


def test_a_stay_that_goes_on_is_scored_and_one_of_the_past_without_an_end_is_not(synthetic, cohort, tmp_path):
    rows, out = cohort
    last = {row["subject_id"]: visit for visit, row in rows.items() if row["labels"] is None}
    by_subject = {}
    for row in sorted(synthetic["admissions"], key=lambda row: row["admittime"]):
        by_subject.setdefault(row["subject_id"], []).append(row["hadm_id"])
    subject = next(s for s, stays in by_subject.items() if len(stays) > 2 and stays[-1] == last.get(s))
    other = next(s for s, stays in by_subject.items() if len(stays) > 2 and stays[-1] == last.get(s) and s != subject)
    opened = {by_subject[subject][-1], by_subject[other][0]}
    admissions = [
        {**row, "dischtime": "" if row["hadm_id"] in opened else row["dischtime"]} for row in synthetic["admissions"]
    ]
    found = now(write_mimic3(tmp_path / "in", {**synthetic, "admissions": admissions}), out, tmp_path)
    assert set(found) == set(last.values())
    going_on = found[last[subject]]
    assert going_on["prediction_time"] is None and going_on["age"] == rows[last[subject]]["age"]
    if rows[last[subject]]["split"] != "train":
        assert going_on["input"] == rows[last[subject]]["input"]
    excluded = json.loads((tmp_path / "now" / "card.json").read_text())["admissions"]["excluded"]
    assert excluded["no discharge time"]["rows"] == 1


def test_it_is_what_predict_reads(synthetic, cohort, tmp_path):
    found = now(write_mimic3(tmp_path / "in", synthetic), cohort[1], tmp_path)
    assert predict(tmp_path / "now", "--model", make_student(tmp_path), "--out", tmp_path / "out") == 0
    assert set(predicted(tmp_path / "out")) == set(found)


def test_other_patients_do_not_change_a_text(synthetic, cohort, tmp_path):
    rows = now(write_mimic3(tmp_path / "in", synthetic), cohort[1], tmp_path)
    some = {row["subject_id"] for row in list(rows.values())[::3]}
    fewer = {name: [row for row in table if row["subject_id"] in some] for name, table in synthetic.items()}
    (tmp_path / "b").mkdir()
    found = now(write_mimic3(tmp_path / "in2", fewer), cohort[1], tmp_path / "b")
    assert found == {visit: row for visit, row in rows.items() if row["subject_id"] in some}


def test_another_kind_of_tables_gives_the_same_texts(synthetic, cohort, tmp_path):
    rows = now(write_mimic3(tmp_path / "in", synthetic), cohort[1], tmp_path)
    (tmp_path / "b").mkdir()
    found = now(write_mimic4(tmp_path / "in4", as_mimic4(synthetic)), cohort[1], tmp_path / "b", kind="mimic4")
    assert {visit: row["input"] for visit, row in found.items()} == {visit: row["input"] for visit, row in rows.items()}


@pytest.mark.parametrize("what", ["no cohort", "nobody"])
def test_without_a_cohort_or_a_patient_it_is_refused_in_one_line(synthetic, cohort, tmp_path, capsys, what):
    from jobs.cli import main

    admissions = [{**row, "admittime": ""} for row in synthetic["admissions"]]
    folder = write_mimic3(tmp_path / "in", {**synthetic, "admissions": admissions})
    like = tmp_path if what == "no cohort" else cohort[1]
    words = ["ingest", "mimic3", str(folder), "--out", str(tmp_path / "now"), "--like", str(like)]
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert ("no such file; expected a cohort" if what == "no cohort" else "no patient's last stay can be used") in said
