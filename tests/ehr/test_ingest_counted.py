"""What cannot be used of a good folder is counted with the first one's place. No patient's words are shown."""

import json

import pytest

from tests.ehr.ehr_tables import as_generic, as_mimic4, write_mimic3, write_mimic4, write_tables
from tests.ehr.ingest_reference import ingest, replaced, returning

MARKER = "ZQMARKERPATIENTQZ"


def card_of(out):
    return json.loads((out / "card.json").read_text())


# Table, row, its other cells -> where it is counted, under which reason.
COUNTED = {
    "admission without subject": ("admissions", 2, {"subject_id": ""}, "no subject_id"),
    "discharge before admission": ("admissions", 2, {"dischtime": "2149-12-31 00:00:00"}, "discharge before admission"),
    "unparseable admission time": ("admissions", 2, {"admittime": "01/02/2150"}, "unparseable admission time"),
    "no admission time": ("admissions", 2, {"admittime": ""}, "no admission time"),
    "unparseable discharge time": ("admissions", 2, {"dischtime": "2150-02-30 00:00:00"}, "unparseable discharge time"),
    "no discharge time": ("admissions", 2, {"dischtime": ""}, "no discharge time"),
    "death": ("admissions", 2, {"hospital_expire_flag": "1"}, "ended in death"),
    "newborn": ("admissions", 2, {"admission_type": "NEWBORN"}, "newborn"),
    "unknown admission": ("diagnoses_icd", 4, {"hadm_id": 999}, "unknown admission"),
    "no visit id": ("prescriptions", 4, {"hadm_id": ""}, "no visit id"),
    "no code": ("diagnoses_icd", 4, {"icd9_code": ""}, "no code"),
    "white space for a code": ("diagnoses_icd", 4, {"icd9_code": "  "}, "no code"),
    "empty drug": ("prescriptions", 4, {"drug": ""}, "empty drug"),
    "white space for a drug": ("prescriptions", 4, {"drug": " \u00a0 "}, "empty drug"),
}


@pytest.mark.parametrize("what", COUNTED)
def test_what_is_left_out_is_counted_with_file_and_line_and_the_rest_goes_on(tmp_path, capsys, what):
    table, number, cells, reason = COUNTED[what]
    folder = write_mimic3(tmp_path / "tables", replaced(returning(), table, number, **cells))
    ingest(folder, tmp_path / "out")
    card, output = card_of(tmp_path / "out"), capsys.readouterr().out
    place = f"{folder / table.upper()}.csv:{number + 2}"
    name = {"diagnoses_icd": "diagnoses", "prescriptions": "medications"}.get(table)
    counted = card["rows"][name]["rejected"] if name else card["admissions"]["excluded"]
    assert counted[reason] == {"rows": 1, "first": place}
    assert f"{reason} (first: {place})" in output
    if name:
        assert card["rows"][name]["read"] == card["rows"][name]["used"] + 1
    assert (
        card["admissions"]["in"]
        == 16
        == card["admissions"]["pairs"]
        + card["admissions"]["last_visits"]
        + sum(found["rows"] for found in card["admissions"]["excluded"].values())
    )


@pytest.mark.parametrize("version", ["11", "", "ICD"])
def test_an_unknown_icd_version_is_counted_with_its_line(tmp_path, version):
    tables = replaced(as_mimic4(returning()), "diagnoses_icd", 4, icd_version=version)
    ingest(write_mimic4(tmp_path / "tables", tables, gz=False), tmp_path / "out", kind="mimic4")
    rejected = card_of(tmp_path / "out")["rows"]["diagnoses"]["rejected"]
    assert rejected == {"unknown icd_version": {"rows": 1, "first": f"{tmp_path}/tables/hosp/diagnoses_icd.csv:6"}}


def test_an_unknown_time_or_number_of_a_detail_costs_that_detail_only(tmp_path):
    tables = returning()
    tables = replaced(replaced(tables, "patients", 0, dob="long ago"), "prescriptions", 0, startdate="soon")
    tables = replaced(tables, "diagnoses_icd", 0, seq_num="first")
    rows = ingest(write_mimic3(tmp_path / "tables", tables), tmp_path / "out")
    assert rows["10"]["age"] is None and rows["20"]["age"] == "69"
    assert "medication: Zinc." in rows["10"]["input"]


@pytest.mark.parametrize("other", [2, 3, 4, 5])
def test_a_row_that_names_another_subject_than_its_admission_is_of_an_unknown_admission(tmp_path, other):
    tables = replaced(returning(), "diagnoses_icd", 0, subject_id=other, icd9_code="4280")
    for partitions in (1, 4):
        rows = ingest(
            write_mimic3(tmp_path / "tables", tables), tmp_path / f"out{partitions}", f"ingest.partitions={partitions}"
        )
        assert "Heart failure" not in rows["10"]["input"]
        assert card_of(tmp_path / f"out{partitions}")["rows"]["diagnoses"]["rejected"]["unknown admission"]["rows"] == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_stays_of_which_nothing_says_whether_the_patient_lived_are_counted(tmp_path, suffix, capsys):
    tables = as_generic(returning())
    for row in tables["visits"]:
        row["died"] = None if row["subject_id"] == tables["visits"][0]["subject_id"] else False
    found = ingest(write_tables(tmp_path / "tables", tables, suffix=suffix), tmp_path / "out", kind="tables")
    said = "visits: 2 cells of column 'died' are empty: those patients count as having lived (first: "
    assert len(found) == 16 and said in capsys.readouterr().out


def test_no_patient_s_words_reach_the_screen_the_card_or_an_error(tmp_path, capsys):
    tables = returning()
    for n, name in enumerate(("ethnicity", "insurance", "admission_type", "diagnosis")):
        tables = replaced(tables, "admissions", n, **{name: MARKER})
    tables = replaced(replaced(tables, "prescriptions", 0, drug=f"{MARKER} 5 mg"), "prescriptions", 1, startdate=MARKER)
    tables = replaced(replaced(tables, "patients", 7, dob=MARKER), "patients", 6, gender=MARKER)
    tables = replaced(tables, "admissions", 15, dischtime=MARKER)
    tables["d_icd_diagnoses"] = [{"icd9_code": "0389", "long_title": MARKER}]
    for table in ("admissions", "patients", "diagnoses_icd", "prescriptions"):
        tables[table] = [{**row, "subject_id": f"{MARKER}{row['subject_id']}"} for row in tables[table]]
    folder = write_mimic3(tmp_path / "tables", tables)
    rows = ingest(folder, tmp_path / "out", "ingest.min_support=1")
    said = capsys.readouterr()
    assert any(MARKER in row["input"] for row in rows.values())
    assert (
        MARKER
        not in said.out
        + said.err
        + (tmp_path / "out" / "card.json").read_text()
        + (tmp_path / "out" / "artifact.json").read_text()
    )


def test_words_in_place_of_a_code_are_counted_but_not_told(tmp_path, capsys):
    tables = replaced(returning(), "diagnoses_icd", 0, icd9_code=f"{MARKER} fell at home")
    ingest(write_mimic3(tmp_path / "tables", tables), tmp_path / "out")
    said, missing = capsys.readouterr(), card_of(tmp_path / "out")["unmapped_codes"]["diagnosis"]
    assert MARKER not in said.out + said.err + (tmp_path / "out" / "card.json").read_text()
    wanted = {"code": "(not like a code)", "version": "9", "rows": 1, "first": f"{tmp_path}/tables/DIAGNOSES_ICD.csv:2"}
    assert missing["most_frequent"] == [wanted] and missing["rows"] == 1
