"""`ingest.subgroups`: columns of a source as subgroups of the visits, and the columns that are refused."""

import json

import pyarrow.parquet as pq
import pytest

from ckd.config import Config
from ckd.run import Run
from ckd.visits.subgroups import marked
from jobs.cli import main
from tests.ehr.ehr_tables import TABLES, as_mimic4, write_meds, write_mimic4, write_tables
from tests.ehr.ingest_reference import ingest, replaced, returning, rows_of
from tests.ehr.related_tables import EICU, OMOP, as_eicu, as_generic, as_omop, invented, write_related
from tests.ehr.test_meds import event
from tests.ehr.test_meds_etl import patients

OPTIONS = ("ingest.min_support=1", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
MARKER = "Zebra"
CELLS = {"A": "A", " Süd ": "Süd", "3.0": "3", "": None, "NULL": None}  # as it is written -> the group


def with_columns(tables, **columns):
    """Generic tables whose visits have more columns: name -> value of the visit's number."""
    visits = [{**row, **{name: of(n) for name, of in columns.items()}} for n, row in enumerate(tables["visits"])]
    return {**tables, "visits": visits}


def named(*more):
    return {**TABLES, "visits": f"{TABLES['visits']} {' '.join(more)}"}


def written(folder, tables, *more, suffix=".csv"):
    return write_tables(folder, tables, columns=named(*more), suffix=suffix)


@pytest.fixture(scope="module")
def stays():
    return as_generic(invented(1, 40))


@pytest.fixture(scope="module")
def cohort(stays, tmp_path_factory):
    """The folder of a cohort with two subgroups of its own, its rows, and {visit_id: clinic}."""
    folder, words = tmp_path_factory.mktemp("subgroups"), list(CELLS)
    tables = with_columns(stays, clinic=lambda n: words[n % 5], ward=lambda n: f"w{n % 3}")
    out = folder / "out"
    rows = ingest(
        written(folder / "in", tables, "clinic", "ward"), out, *OPTIONS, "ingest.subgroups=Clinic,ward", kind="tables"
    )
    return out, rows, {str(row["visit_id"]): CELLS[row["clinic"]] for row in tables["visits"]}


def test_a_column_of_the_visits_is_a_subgroup_beside_the_fixed_ones_and_changes_nothing_else(cohort, stays, tmp_path):
    _, rows, clinic = cohort
    assert {visit: row["clinic"] for visit, row in rows.items()} == {visit: clinic[visit] for visit in rows}
    assert len({row["ward"] for row in rows.values()}) == 3
    plain = ingest(write_tables(tmp_path / "in", stays), tmp_path / "out", *OPTIONS, kind="tables")
    assert {v: {n: row[n] for n in plain[v]} for v, row in rows.items()} == plain
    assert not any("Süd" in row["input"] or "w1" in row["input"] for row in rows.values())


def test_the_card_and_every_part_say_what_the_subgroups_are(cohort):
    out, rows, _ = cohort
    card = json.loads((out / "card.json").read_text())
    assert card["settings"]["ingest.subgroups"] == '["Clinic", "ward"]' and card["subgroups"] == {
        "clinic": 3,
        "ward": 3,
    }
    unknown = sum(row["clinic"] is None for row in rows.values())
    assert unknown and card["unknown"]["clinic"] == unknown and card["unknown"]["ward"] == 0
    assert "Süd" not in json.dumps(card, ensure_ascii=False)
    assert all(marked(pq.read_schema(part)) == ("clinic", "ward") for part in out.glob("part-*.parquet"))


def test_a_run_takes_them_from_the_cohort_and_a_configuration_that_names_them_too_is_as_good(cohort, tmp_path):
    out, rows, _ = cohort
    for more in ({}, {"ingest": {"subgroups": "Clinic"}}):
        where = {"results": str(tmp_path / str(len(more))), "artifacts": str(tmp_path / str(len(more)))}
        run = Run(Config.model_validate({"data": {"train": str(out)}, "run": where, **more}))
        stored = run.prepare(lambda line: None)
        assert stored.subgroups == ("clinic", "ward")
        tables = [stored.read(shard, ["visit_id", "clinic", "ward"]) for shard in stored.shards]
        found = [row for table in tables for row in table.to_pylist()]
        assert {row["visit_id"]: row["clinic"] for row in found} == {v: row["clinic"] for v, row in rows.items()}


def test_public_jsonl_of_a_cohort_keeps_them(cohort, tmp_path):
    out, rows, _ = cohort
    assert main(["export", "jsonl", str(out), "--out", str(tmp_path / "data")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "data" / "name_train.json").read_text().splitlines()]
    assert lines and {line["visit_id"]: line["clinic"] for line in lines} == {
        visit: row["clinic"] for visit, row in rows.items() if row["split"] == "train" and row["labels"]
    }


def test_patients_as_they_are_now_have_none(cohort, stays, tmp_path):
    folder, more = write_tables(tmp_path / "in", stays), ("--like", str(cohort[0]), "ingest.subgroups=clinic")
    found = ingest(folder, tmp_path / "now", *more, kind="tables")
    assert found and not any("clinic" in row for row in found.values())


def test_a_column_of_the_patients_counts_where_the_visit_has_none_and_a_stay_has_that_of_its_beginning(tmp_path):
    tables = as_mimic4(returning(12))
    rows = tables["admissions"]
    tables = replaced(tables, "admissions", 0, marital_status="MARRIED")
    tables = replaced(tables, "admissions", 1, marital_status="SINGLE", admittime=rows[0]["dischtime"])
    for n, row in enumerate(tables["patients"]):
        row["anchor_year_group"] = f"{2008 + n % 2} - 2010"
    settings = ("ingest.subgroups=[marital_status, anchor_year_group]", *OPTIONS)
    found = ingest(write_mimic4(tmp_path / "in", tables), tmp_path / "out", *settings, kind="mimic4")
    first = found[str(rows[0]["hadm_id"])]
    assert (first["marital_status"], first["anchor_year_group"]) == ("MARRIED", "2008 - 2010")
    assert str(rows[1]["hadm_id"]) not in found, "one stay with the admission before it"
    assert {row["marital_status"] for row in found.values()} == {"MARRIED", None}


def test_omop_and_eicu_columns_are_subgroups(tmp_path):
    made = invented(2, 30)
    omop, eicu = as_omop(made), as_eicu(made)
    for row in omop["visit_occurrence"]:
        row["care_site_id"] = 7 + row["person_id"] % 2
    for row in eicu["patient"]:
        row["hospitalid"] = 7 + row["patienthealthsystemstayid"] % 2 if row["unitvisitnumber"] == 1 else 99
    columns = {**OMOP, "visit_occurrence": f"{OMOP['visit_occurrence']} care_site_id"}
    for kind, tables, names, column in (("omop", omop, columns, "care_site_id"), ("eicu", eicu, EICU, "hospitalid")):
        folder = write_related(tmp_path / kind, tables, names)
        out = tmp_path / f"out-{kind}"
        found = ingest(folder, out, *OPTIONS, f"ingest.subgroups={column}", kind=kind)
        of = "visit_id" if kind == "eicu" else "subject_id"
        assert {visit: row[column] for visit, row in found.items()} == {
            visit: str(7 + int(row[of]) % 2) for visit, row in found.items()
        }


def test_meds_columns_and_prefixes_are_subgroups_of_the_visit_they_stand_in(tmp_path):
    rows = patients(8)
    rows += [event(n, "2150-01-01", f"LANGUAGE//{'DE' if n % 2 else 'EN'}", 10 * n) for n in range(1, 9)]
    rows += [event(1, "2150-03-01", "LANGUAGE//FR")]  # of the patient from then on
    folder = write_meds(tmp_path / "in", [{**row, "insurance": "Medicare"} for row in rows])
    settings = ("ingest.subgroups=LANGUAGE//,race", "ingest.held_out_share=0.4", "ingest.tuning_share=0")
    found = ingest(folder, tmp_path / "out", *settings, kind="meds")
    assert [found[visit]["language"] for visit in ("10", "11", "20", "21")] == ["DE", "FR", "EN", None]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert not card["codes_passed_over"]


REFUSED = {
    "no such column": ("station", "'station' is no column of {folder} (visits: admission_type, age, clinic, "),
    "fixed": ("sex", "'sex' is a subgroup of every cohort already; leave it out"),
    "taken": ("input", "'input' means something else in a visit"),
    "id": ("visit_id", "'visit_id' means something else in a visit"),
    "time": ("start", "column 'start' of {folder} is read as 'start', no group"),
    "nearly one of each": ("clinic", "column 'clinic' has 37 values for 40 patients; expected a column of groups"),
    "many": ("clinic", "column 'clinic' has more than 50 values; expected a column of groups: at most 50 values"),
    "text": ("clinic", "column 'clinic' holds text; expected"),
    "days": ("clinic", "column 'clinic' holds dates; expected"),
    "empty": ("clinic", "column 'clinic' is empty in every visit; leave it out"),
}
VALUES = {
    "nearly one of each": lambda n: f"{MARKER}{n % 37}",
    "many": lambda n: f"{MARKER}{n}",
    "text": lambda n: f"{MARKER} was seen by her doctor, who found her well and sent her home {n % 2}",
    "days": lambda n: f"{1 + n % 3}.3.2019 {MARKER}",
    "empty": lambda n: "NULL",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_group_is_refused_in_one_line_that_shows_no_value(stays, fault, tmp_path, capsys):
    name, said = REFUSED[fault]
    tables = with_columns(stays, clinic=VALUES.get(fault, lambda n: MARKER))
    folder, out = written(tmp_path / "in", tables, "clinic"), tmp_path / "out"
    assert main(["ingest", "tables", str(folder), "--out", str(out), *OPTIONS, f"ingest.subgroups={name}"]) == 2
    err = capsys.readouterr().err.strip()
    assert said.format(folder=folder) in err and len(err.splitlines()) == 1 and MARKER not in err
    assert not list(out.glob("*.parquet")) and not rows_of(out)


def test_a_prefix_that_no_code_has_or_that_is_read_already_is_refused(tmp_path, capsys):
    folder = write_meds(tmp_path / "in", [*patients(2), event(1, "2150-01-01", "LANGUAGE//DE", 10)])
    for name, said in (
        ("TONGUE", "'TONGUE' is no column of the shards (code, hadm_id, "),
        ("DIAGNOSIS", "codes that begin with 'DIAGNOSIS//ICD//' are read as diagnosis"),
        ("time", "column 'time' of"),
    ):
        assert main(["ingest", "meds", str(folder), "--out", str(tmp_path / "out"), f"ingest.subgroups={name}"]) == 2
        assert said in capsys.readouterr().err


def test_a_parquet_column_of_flags_or_numbers_is_one_and_a_column_of_days_is_none(stays, tmp_path, capsys):
    import datetime

    day = datetime.date(2020, 1, 1)
    tables = with_columns(stays, private=lambda n: n % 2 == 0, floor=lambda n: float(n % 3), day=lambda n: day)
    folder = written(tmp_path / "in", tables, "private", "floor", "day", suffix=".parquet")
    found = ingest(folder, tmp_path / "out", *OPTIONS, "ingest.subgroups=private,floor", kind="tables")
    assert {(row["private"], row["floor"]) for row in found.values()} <= {
        (flag, number) for flag in ("true", "false") for number in "012"
    }
    arguments = ["ingest", "tables", str(folder), "--out", str(tmp_path / "no"), *OPTIONS]
    assert main([*arguments, "ingest.subgroups=day"]) == 2
    assert "column 'day' of" in capsys.readouterr().err
