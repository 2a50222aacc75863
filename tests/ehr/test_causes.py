"""Tables that give no cohort end in one line with the cause, where it is first, and what to do; the counts stand before
it. No line shows what a cell says."""

import pytest

from jobs.cli import main
from tests.ehr.ehr_tables import as_mimic4, write_meds, write_mimic3, write_mimic4
from tests.ehr.ingest_reference import replaced, returning
from tests.ehr.test_meds import event, stay


def refused(capsys, kind, folder, out, *settings):
    """What is said before the last line, and that line."""
    assert main(["ingest", kind, str(folder), "--out", str(out), *settings]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    return said.out, said.err


def with_all(table, **cells):
    tables = returning()
    tables[table] = [{**row, **{name: make(row) for name, make in cells.items()}} for row in tables[table]]
    return tables


CAUSES = {
    "times of another order": (
        with_all("admissions", admittime=lambda row: "16.03.2150 09:30"),
        "16 excluded, unparseable admission time (first: {folder}/ADMISSIONS.csv:2); column 'admittime' is written "
        "99.99.9999 99:99, expected as 2150-01-31 09:30:00",
    ),
    "epoch numbers": (
        with_all("admissions", dischtime=lambda row: "5681554200"),
        "column 'dischtime' is written 9999999999 (a number counts from a day that nobody knows), expected as",
    ),
    "ids that do not meet": (
        with_all("prescriptions", hadm_id=lambda row: f"H{row['hadm_id']}"),
        "{folder}/PRESCRIPTIONS.csv: none of 16 rows meets an admission: 16 have unknown admission (first: "
        "{folder}/PRESCRIPTIONS.csv:2); expected visit and subject ids as the admissions have them",
    ),
    "patients that do not meet": (
        with_all("patients", subject_id=lambda row: row["subject_id"] + 1000),
        "{folder}/PATIENTS.csv: none of 8 patients has an admission; expected subject ids as the admissions have them",
    ),
    "no codes": (
        with_all("diagnoses_icd", icd9_code=lambda row: "NULL"),
        "of 32 rows of {folder}/DIAGNOSES_ICD.csv 32 have no code (first: {folder}/DIAGNOSES_ICD.csv:2); expected an",
    ),
    "an empty table": (
        {**returning(), "diagnoses_icd": []},
        "{folder}/DIAGNOSES_ICD.csv holds no rows of diagnoses; expected the diagnoses of each stay",
    ),
    "one visit each": (
        {
            name: [{**row, "subject_id": row.get("hadm_id", 10 * row["subject_id"])} for row in rows]
            for name, rows in returning().items()
        },
        "none of 16 patients has two admissions; expected patients who return",
    ),
    "readmitted too soon": (
        with_all("admissions", admittime=lambda row: f"2150-01-{'01' if row['hadm_id'] % 10 == 0 else '07'} 10:00:00",
                 dischtime=lambda row: f"2150-01-{'05' if row['hadm_id'] % 10 == 0 else '09'} 10:00:00"),
        "8 excluded, next admission before the codes are complete (first: {folder}/ADMISSIONS.csv:2); "
        "ingest.coding_delay_days decides",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_the_last_line_names_the_cause_that_costs_most(tmp_path, capsys, cause):
    tables, wanted = CAUSES[cause]
    folder = write_mimic3(tmp_path / "tables", tables)
    before, line = refused(capsys, "mimic3", folder, tmp_path / "out")
    assert wanted.format(folder=folder) in line
    assert "ingest: 16 admissions = " in before


def test_an_unknown_version_is_the_cause_where_no_code_has_another(tmp_path, capsys):
    tables = as_mimic4(returning())
    tables["diagnoses_icd"] = [{**row, "icd_version": "eleven"} for row in tables["diagnoses_icd"]]
    folder = write_mimic4(tmp_path / "tables", tables, gz=False)
    _, line = refused(capsys, "mimic4", folder, tmp_path / "out")
    assert "diagnoses_icd.csv:2: 100.0% of the diagnosis rows" in line and "a version that is neither 9 nor 10" in line


def test_meds_diagnoses_without_a_visit_are_told(tmp_path, capsys):
    rows = [*stay(1, 11, "2150-01-01", "2150-01-05"), *stay(1, 12, "2150-03-01", "2150-03-05")]
    rows += [event(1, "2150-01-05", "DIAGNOSIS//ICD//9//5849"), event(1, "2150-03-05", "DIAGNOSIS//ICD//9//5849")]
    _, line = refused(capsys, "meds", write_meds(tmp_path / "meds", rows), tmp_path / "out")
    assert "none of 2 rows meets an admission: 2 have no visit id" in line


def test_a_few_bad_cells_are_told_with_their_column_place_and_pattern(tmp_path, capsys):
    tables = replaced(replaced(returning(), "patients", 0, dob="long ago"), "prescriptions", 3, startdate="5681554200")
    folder = write_mimic3(tmp_path / "tables", replaced(tables, "patients", 1, gender="N/A"))
    assert main(["ingest", "mimic3", str(folder), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    first = f"(first: {folder}"
    assert (
        f"patients: 1 cells of column 'dob' cannot be read and count as empty {first}/PATIENTS.csv:2, written " in said
    )
    assert "aaaa aaa, expected as 2150-01-31 09:30:00)" in said and "long ago" not in said
    assert f"medications: 1 cells of column 'startdate' cannot be read and count as empty {first}/PRESC" in said
    assert "written 9999999999 (a number counts from a day that nobody knows), expected as" in said
    assert (
        f"patients: 1 cells of column 'gender' hold a word for nothing, such as NULL, and count as empty {first}"
        in said
    )
