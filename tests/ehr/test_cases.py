"""Tables that no one here made (../shared/cases/tables, or CKD_CASES): the same rows as the plain tables, one line that
names the cause, or a count that is told. What must never come back has a test with inputs of its own elsewhere."""

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from ckd.visits.labels import DISEASES
from jobs.cli import main
from tests.ehr.ingest_reference import rows_of

COLUMNS = ("input", "labels", "current_labels", "age", "sex", "ethnicity", "insurance")
BASES = {"mimic3": "_base_mimic3", "mimic4": "_base_mimic4", "tables": "_base_tables", "meds": "_base_meds"}
SAME = (
    *("m3_pandas_dates", "m4_hadm_float_prescriptions", "m4_time_iso_T", "m4_time_utc_suffix"),
    *("meds_dx_prefix_half", "meds_start_without_hadm", "meds_vocab_meds_etl_mimic"),
    *("tab_padded_ids_in_meds", "tab_sex_words", "file_parquet", "m4_v1_core_folder", "m4_v1_ethnicity_column"),
    "version_icd10gm_word",
)
REFUSED = {
    "icd_null_all": "diagnoses_icd.csv 90 have no code (first: {folder}/diagnoses_icd.csv:2); expected an ICD code in "
    "each row",
    "tab_empty_diagnoses": "diagnoses.parquet holds no rows of diagnoses; expected the diagnoses of each stay",
    "tab_start_half_bad": "15 excluded, unparseable admission time (first: {folder}/visits.parquet:2); column 'start' "
    "is written 99.99.9999 99:99, expected as 2150-01-31 09:30:00",
    "meds_dx_without_hadm": "none of 90 rows meets an admission: 90 have no visit id (first: "
    "{folder}/data/train/0.parquet:7)",
}


def cases():
    folder = Path(os.environ.get("CKD_CASES", Path(__file__).resolve().parents[3] / "shared" / "cases")) / "tables"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there (set CKD_CASES)")
    return folder


def kind_of(case):
    return (cases() / case / "command.txt").read_text().split()[2]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """Case -> exit code, and the folder of the cohort."""

    @cache
    def ingest(case):
        out = tmp_path_factory.mktemp(case) / "out"
        return main(["ingest", kind_of(case), str(cases() / case / "in"), "--out", str(out)]), out

    return ingest


@pytest.fixture
def made(ingested):
    """Case -> its rows, those of the plain tables, its card."""

    def cohort(case):
        (code, out), (plain, base) = ingested(case), ingested(BASES[kind_of(case)])
        assert code == plain == 0
        return compared(out), compared(base), json.loads((out / "card.json").read_text())

    return cohort


def compared(out):
    return {visit: {name: row[name] for name in COLUMNS} for visit, row in rows_of(out).items()}


def but(rows, **columns):
    """The rows with other columns."""
    return {visit: {**row, **columns} for visit, row in rows.items()}


@pytest.mark.parametrize("case", SAME)
def test_the_rows_are_those_of_the_plain_tables(made, case):
    found, plain, _ = made(case)
    assert found == plain and len(plain) == 30


@pytest.mark.parametrize("case", REFUSED)
def test_the_last_line_names_the_cause_and_the_counts_stand_before_it(ingested, capsys, case):
    ingested.cache_clear()
    code, _ = ingested(case)
    said = capsys.readouterr()
    assert code == 2 and len(said.err.splitlines()) == 1
    assert REFUSED[case].format(folder=cases() / case / "in") in said.err
    assert "ingest: 30 admissions = 0 next-visit pairs + " in said.out and " (first: " in said.out


def test_the_splits_of_a_meds_data_set_are_taken(ingested, made):
    found, plain, _ = made("meds_subject_splits")
    assert found == plain
    splits = Counter(row["split"] for row in rows_of(ingested("meds_subject_splits")[1]).values())
    assert splits == {"train": 15, "tuning": 6, "held_out": 9}


def test_a_death_that_is_written_with_a_t_ends_the_stay_in_death(made):
    found, plain, card = made("m4_deathtime_T")
    assert plain.keys() - found.keys() == {"700011"} and found == {visit: plain[visit] for visit in found} | {
        "700010": found["700010"]
    }
    assert card["admissions"]["excluded"]["ended in death"]["rows"] == 1 and not card["cells"]


def test_a_word_for_nothing_is_an_empty_cell_and_counted(made):
    found, plain, card = made("m4_null_word_NULL")
    assert found.keys() == plain.keys() and not any("NULL" in str(row) for row in found.values())
    told = {(cell["column"], cell["kind"]): cell["rows"] for cell in card["cells"]}
    assert {kind for _, kind in told} == {"empty"} and sum(told.values()) > 5
    lost = {name: sum(found[v][name] is None and plain[v][name] is not None for v in plain) for name in COLUMNS}
    assert (lost["sex"], lost["insurance"]) == (3, told["insurance", "empty"])


def test_patients_without_a_row_have_no_age_or_sex_and_are_told(made):
    found, plain, card = made("m4_patients_partial")
    lost = {visit for visit in plain if found[visit] != plain[visit]}
    assert len(lost) == 21 and all(found[v] == {**plain[v], "age": None, "sex": None} for v in lost)
    assert card["without_patient"]["rows"] == 21 and (card["unknown"]["age"], card["unknown"]["sex"]) == (21, 21)


def test_ages_above_89_are_90(made):
    found, plain, _ = made("tab_age_text_89plus")
    assert found == but(plain, age="90")


def test_insurance_and_race_of_a_meds_visit_are_its_own_events(made):
    found, plain, _ = made("meds_insurance_race_events_0_2_0")
    race = {visit: "ASIAN" if int(visit) % 2 else "WHITE" for visit in plain}
    assert found == {v: {**row, "insurance": "Medicare", "ethnicity": race[v]} for v, row in plain.items()}


UNMAPPED = {
    "snomed_as_10": "100.0% of the diagnosis rows have no CCS category, more than ingest.max_unmapped (0.05): "
    "12044266 (6)",
    "icd_first3": "E11 (12), E78 (6), E87 (6), I25 (6), J18 (6), K75 (6), R65 (6); 100% of them look like codes cut to",
    "icd9_first3": "250 (12), 272 (6), 276 (6), 401 (6), 414 (6), 518 (6), 571 (6), 785 (6); 100% of them look like",
    "icd10_gm": "6.7% of the diagnosis rows have no CCS category, more than ingest.max_unmapped (0.05): K75.8 (6)",
}


@pytest.mark.parametrize("case", UNMAPPED)
def test_too_many_codes_without_a_category_are_refused_by_name(ingested, capsys, case):
    ingested.cache_clear()
    assert ingested(case)[0] == 2
    line = capsys.readouterr().err
    assert UNMAPPED[case] in line and len(line.splitlines()) == 1


def test_german_codes_give_the_labels_of_the_same_diseases_but_of_the_category_that_is_told(tmp_path, made):
    out, liver = tmp_path / "out", DISEASES.index("Other liver diseases")
    folder = str(cases() / "icd10_gm" / "in")
    assert main(["ingest", "mimic4", folder, "--out", str(out), "ingest.max_unmapped=.1"]) == 0
    plain = made("version_icd10gm_word")[0]
    for visit, row in rows_of(out).items():
        for column in ("labels", "current_labels"):
            found, wanted = row[column], plain[visit][column]
            assert found == (wanted and [value and place != liver for place, value in enumerate(wanted)])


def test_visits_of_which_no_code_is_left_are_no_negatives(made):
    found, plain, card = made("m4_half_null_codes")
    assert len(found) == 15 and all(found[visit]["labels"] in (plain[visit]["labels"], None) for visit in found)
    assert card["admissions"]["excluded"]["no diagnosis codes"]["rows"] == 15
