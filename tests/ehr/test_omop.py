"""OMOP CDM folders: the cohort of the same patients as generic tables, which visits and codes are taken, refusals."""

import json
from datetime import datetime, timedelta

import polars as pl
import pytest

from ckd.ehr.kinds import open_source
from ckd.ehr.omop_codes import NONE, SOURCE_CONCEPT, SOURCE_VALUE, STANDARD, CodeBook
from jobs.cli import main
from tests.ehr.ehr_tables import write_tables
from tests.ehr.ingest_reference import ingest, rows_of
from tests.ehr.related_tables import OMOP, as_generic, as_omop, invented, write_related

OPTIONS = ("ingest.min_support=1", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
WAYS = [
    {"suffix": ".csv"},
    {"suffix": ".parquet"},
    {"suffix": ".csv", "upper": True, "tabs": ("concept", "concept_relationship")},
]
MARKER = "Zebra"


def refused(capsys, tmp_path, tables, **options):
    """The one line of a refused ingest."""
    folder = write_related(tmp_path / "omop", tables, OMOP, **options)
    assert main(["ingest", "omop", str(folder), "--out", str(tmp_path / "out"), *OPTIONS]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert MARKER not in line
    return line


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_the_same_patients_as_generic_tables_give_the_same_rows(tmp_path, way):
    stays = invented(way)
    generic = write_tables(tmp_path / "t", as_generic(stays, "Inpatient Visit"))
    wanted = ingest(generic, tmp_path / "out", *OPTIONS, kind="tables")
    folder = write_related(tmp_path / "omop", as_omop(stays), OMOP, **WAYS[way])
    assert ingest(folder, tmp_path / "other", *OPTIONS, "ingest.partitions=3", kind="omop") == wanted
    assert sum(row["labels"] is not None for row in wanted.values()) > 10
    card = json.loads((tmp_path / "other" / "card.json").read_text())
    found = {e["prefix"]: (e["events"], e["subjects"]) for e in card["codes_passed_over"]}
    subjects = len({stay["subject"] for stay in stays})
    assert found == {
        "visit_concept_id 9202 (Outpatient Visit)": (len(stays), subjects),
        "condition_occurrence of these": (len(stays), subjects),
    }
    ways = card["source"]["codes_by"]
    assert ways[SOURCE_CONCEPT] > 20 and ways[SOURCE_VALUE] > 20 and ways[STANDARD] == ways[NONE] == 0
    assert card["rows"]["diagnoses"]["used"] == card["rows"]["diagnoses"]["read"] == sum(ways.values())


def test_tables_in_parts_give_the_same_rows(tmp_path):
    tables = as_omop(invented(1))
    wanted = ingest(write_related(tmp_path / "a", tables, OMOP), tmp_path / "out", *OPTIONS, kind="omop")
    folder = write_related(tmp_path / "b", tables, OMOP, suffix=".parquet")
    for name in ("concept", "condition_occurrence", "visit_occurrence"):
        rows = tables[name]
        (folder / f"{name}.parquet").unlink()
        for part, some in enumerate((rows[: len(rows) // 3], rows[len(rows) // 3 :])):
            write_related(folder / name, {f"part{part}": some}, {f"part{part}": OMOP[name]}, suffix=".parquet")
    assert ingest(folder, tmp_path / "other", *OPTIONS, kind="omop") == wanted


BOOK = CodeBook(
    concepts={
        0: ("No matching concept", "None", "No matching concept"),
        1: ("heart failure, ICD", "ICD10CM", "I50.9"),
        2: ("heart failure, SNOMED", "SNOMED", "84114007"),
        3: ("a Read code", "Read", "E11"),
        4: ("German", "ICD10GM", "N18.3"),
        10: ("Heart failure", "SNOMED", "84114007"),
        11: ("Diabetes", "SNOMED", "73211009"),
        12: ("Something vague", "SNOMED", "1"),
    },
    versions={"V4581": {"9"}, "E119": {"10"}, "E8497": {"9", "10"}},
    mapped={
        10: {("9", "428.0"), ("10", "I50.9"), ("10", "I50.20")},
        11: {("10", "E11.9"), ("10", "E11.65")},
        12: {("10", "I50.9"), ("10", "QQQ")},
    },
)


@pytest.mark.parametrize(
    ("source", "value", "concept", "wanted"),
    [
        (1, "local", 10, ("I50.9", "10", None, SOURCE_CONCEPT)),
        (4, None, None, ("N18.3", "10", None, SOURCE_CONCEPT)),
        (0, "ICD10CM:I50.9", 0, ("I50.9", "10", None, SOURCE_VALUE)),
        (None, "ICD-9-CM | 428.0", None, ("428.0", "9", None, SOURCE_VALUE)),
        (0, "V45.81", 0, ("V45.81", "9", None, SOURCE_VALUE)),  # a concept of one edition alone
        (0, "E11.9", 0, ("E11.9", "10", None, SOURCE_VALUE)),
        (0, "E849.7", 0, ("E849.7", "9", None, SOURCE_VALUE)),  # concepts of both: the point decides
        (0, "038.9", 0, ("038.9", "9", None, SOURCE_VALUE)),  # of none: HCUP's tables
        (2, "I50.9", 0, ("I50.9", "10", None, SOURCE_VALUE)),  # not that concept's code
        (3, "E11", 10, ("I50.9", "10", "Heart failure", STANDARD)),
        (3, "E11", 0, ("E11", "Read", None, NONE)),  # a Read code that looks like one of ICD-10
        (0, "999", 0, ("999", None, None, NONE)),  # the form of an ICD-9 code, but none
        (0, "SNOMED:428.0", 0, ("SNOMED:428.0", None, None, NONE)),
        (0, "local", 10, ("I50.9", "10", "Heart failure", STANDARD)),
        (0, "local", 11, ("73211009", "SNOMED", None, NONE)),  # two CCS categories: 49 and 50
        (0, "local", 12, ("1", "SNOMED", None, NONE)),  # one of its codes has no category
        (0, None, 99, (None, None, None, NONE)),
    ],
)
def test_a_code_is_the_source_s_own_or_one_on_which_all_agree(source, value, concept, wanted):
    assert BOOK.choose(source, value, concept) == wanted


def standard_only(relations):
    """Patients whose conditions have standard concepts alone, and these relationships."""
    tables = as_omop(invented(2))
    tables["concept"] += [
        {"concept_id": n, "concept_name": name, "domain_id": "Condition", "vocabulary_id": "SNOMED", "concept_code": n}
        for n, name in ((10, "Failing heart"), (11, "Unmapped"))
    ]
    for n, row in enumerate(tables["condition_occurrence"]):
        row |= {"condition_source_concept_id": 0, "condition_source_value": MARKER, "condition_concept_id": 10 + n % 2}
    ids = {row["concept_code"]: row["concept_id"] for row in tables["concept"]}
    for one, relation, other, invalid in relations:
        row = {"concept_id_1": ids.get(one, one), "concept_id_2": ids.get(other, other), "relationship_id": relation}
        tables["concept_relationship"].append({**row, "invalid_reason": invalid})
    return tables


@pytest.mark.parametrize("relation", [("I50.9", "Maps to", 10, ""), (10, "Mapped from", "428.0", "")])
def test_standard_concepts_lead_back_where_the_codes_agree_and_the_rest_is_counted(tmp_path, relation):
    tables = standard_only([relation, ("E11.9", "Maps to", 11, "D")])  # D: deleted, so it does not count
    folder = write_related(tmp_path / "omop", tables, OMOP)
    rows = ingest(folder, tmp_path / "out", *OPTIONS, "ingest.max_unmapped=1", kind="omop")
    assert any("Failing heart" in row["input"] for row in rows.values())
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    ways = card["source"]["codes_by"]
    rejected = card["rows"]["diagnoses"]["rejected"]["unknown icd_version"]["rows"]
    assert ways[STANDARD] > 10 and ways[NONE] == rejected == card["unmapped_codes"]["diagnosis"]["rows"] > 10
    own = tmp_path / "own.csv"
    own.write_text("code,version,ccs\n11,SNOMED,108\n")
    rows = ingest(folder, tmp_path / "mapped", *OPTIONS, f"ingest.code_map={own}", kind="omop")
    assert all(any(row["current_labels"]) for row in rows.values())


def test_more_conditions_without_an_icd_code_than_ingest_max_unmapped_stop_it(tmp_path, capsys):
    line = refused(capsys, tmp_path, standard_only([("I50.9", "Maps to", 10, "")]))
    assert "have no CCS category, more than ingest.max_unmapped" in line and "11 (" in line


def test_conditions_without_any_icd_code_are_refused_with_what_they_have(tmp_path, capsys):
    tables = standard_only([])
    del tables["concept_relationship"]
    for row in tables["condition_occurrence"][::3]:
        row["condition_source_concept_id"] = 10
    line = refused(capsys, tmp_path, tables)
    assert "condition_occurrence.csv: none of" in line and "source concepts of none (" in line and "SNOMED (" in line
    assert line.endswith("or what the codes are in ingest.code_map (docs/tables.md)")


def test_a_code_map_says_what_the_codes_are_of_a_cdm_without_any_icd_code(tmp_path, capsys):
    folder, own = write_related(tmp_path / "omop", standard_only([]), OMOP), tmp_path / "own.csv"
    arguments = ["ingest", "omop", str(folder), *OPTIONS, "ingest.max_unmapped=1", f"ingest.code_map={own}", "--out"]
    own.write_text("code,version,ccs\n99,SNOMED,108\n")
    assert main([*arguments, str(tmp_path / "none")]) == 2
    assert "has an ICD code" in capsys.readouterr().err, "none of the codes is in the map"
    own.write_text("code,version,ccs\n10,SNOMED,108\n11,snomed,49\n")
    assert main([*arguments, str(tmp_path / "out")]) == 0
    labels = [row["current_labels"] for row in rows_of(tmp_path / "out").values()]
    assert len(labels) > 10 and all(any(each) for each in labels)
    like = ["ingest", "omop", str(folder), "--like", str(tmp_path / "out"), "--out", str(tmp_path / "now")]
    assert main(like) == 0, "the words of the cohort know the codes too"


def test_visits_of_which_none_is_a_hospital_stay_are_refused_with_the_concepts_found(tmp_path, capsys):
    tables = as_omop(invented(2))
    for n, row in enumerate(tables["visit_occurrence"]):
        row["visit_concept_id"] = 9203 if n == 0 else 9202
    line = refused(capsys, tmp_path, tables)
    count = len(tables["visit_occurrence"]) - 1
    assert (
        f"expected visit_concept_id 9201, 262, 8717 or one that is below them; found 9202 ({count}), 9203 (1)" in line
    )


def test_a_visit_below_an_inpatient_one_is_a_hospital_stay(tmp_path):
    tables = as_omop(invented(2))
    tables["concept"] += [
        {
            "concept_id": n,
            "concept_name": f"Ward {n}",
            "domain_id": "Visit",
            "vocabulary_id": "Visit",
            "concept_code": n,
        }
        for n in (50, 51)
    ]
    for one, relation, other in ((50, "Is a", 9201), (50, "Subsumes", 51)):
        row = {"concept_id_1": one, "concept_id_2": other, "relationship_id": relation}
        tables["concept_relationship"].append(row)
    wanted = ingest(write_related(tmp_path / "a", tables, OMOP), tmp_path / "out", *OPTIONS, kind="omop")
    for row in tables["visit_occurrence"]:
        row["visit_concept_id"] = 51 if row["visit_concept_id"] == 9201 else row["visit_concept_id"]
    found = ingest(write_related(tmp_path / "b", tables, OMOP), tmp_path / "other", *OPTIONS, kind="omop")
    assert {row.pop("admission_type") for row in found.values()} == {"Ward 51"}
    assert {row.pop("admission_type") for row in wanted.values()} == {"Inpatient Visit"} and found == wanted


@pytest.mark.parametrize(
    ("table", "cells", "says"),
    [
        (
            "visit_occurrence",
            {"visit_concept_id": MARKER},
            "visit_occurrence.csv:2: column 'visit_concept_id' holds no",
        ),
        ("condition_occurrence", {"condition_source_concept_id": "1.5"}, "condition_occurrence.csv:2: column"),
        ("concept", {"concept_id": MARKER}, "concept.csv:2: column 'concept_id' holds no whole number"),
        ("visit_occurrence", {"visit_occurrence_id": ""}, "have no visit id"),
        ("death", {"death_date": "01.02.2015"}, "death.csv:2: a death without a time that can be read"),
        ("death", {"death_date": ""}, "death.csv:2: a death without a time that can be read"),
        ("concept", {"concept_id": 9201}, "concept.csv: concept_id 9201 is there twice; keep one row"),
    ],
)
def test_a_cell_that_is_no_id_is_refused_with_its_line(tmp_path, capsys, table, cells, says):
    tables = as_omop(invented(2))
    tables[table][0] |= cells
    assert says in refused(capsys, tmp_path, tables)


@pytest.mark.parametrize("name", [name for name in OMOP if name != "concept_relationship"])
def test_a_missing_table_is_refused(tmp_path, capsys, name):
    tables = as_omop(invented(2))
    del tables[name]
    assert f"no table '{name}'" in refused(capsys, tmp_path, tables)


def test_a_line_that_is_cut_off_is_refused_in_a_table_that_is_only_looked_up(tmp_path, capsys):
    folder = write_related(tmp_path / "omop", as_omop(invented(2)), OMOP)
    for path in (folder / "concept.csv", folder / "death.csv"):
        whole = path.read_text()
        path.write_text(whole + "77,half\n")
        assert main(["ingest", "omop", str(folder), "--out", str(tmp_path / "out"), *OPTIONS]) == 2
        assert f"{path}:" in (line := capsys.readouterr().err.strip().splitlines()[-1]) and "2 cells" in line
        path.write_text(whole)


def test_people_deaths_and_times_are_read_as_far_as_they_are_known(tmp_path):
    tables = as_omop(invented(2))
    people = tables["person"]
    people[0] |= {"gender_concept_id": 0, "gender_source_value": "W", "race_concept_id": 0, "race_source_value": "own"}
    people[1] |= {"month_of_birth": "", "day_of_birth": ""}
    people[2] |= {"day_of_birth": ""}
    people[3] |= {"month_of_birth": 2, "day_of_birth": 31}
    source = open_source("omop", str(write_related(tmp_path / "omop", tables, OMOP)))
    found = {row["subject_id"]: row for row in source.scan("patients").collect().to_dicts()}
    first, second, third, fourth = (found[str(person["person_id"])] for person in people[:4])
    assert first["sex"] == "W"
    assert (second["birth"], second["anchor_age"], second["anchor_year"]) == (None, 0, people[1]["year_of_birth"])
    assert (third["birth"].month, third["birth"].day) == (people[2]["month_of_birth"], 1)
    assert fourth["birth"] is None
    visits = source.scan("visits").filter(pl.col("subject_id") == str(people[0]["person_id"])).collect()
    assert set(visits["ethnicity"]) == {"own"}
    dead = {str(row["person_id"]) for row in tables["death"]}
    assert set(source.scan("visits").filter("died").collect()["subject_id"]) == dead and dead


def test_labels_of_death_after_discharge_need_a_death_that_is_known(tmp_path, capsys):
    labels = tmp_path / "labels.yaml"
    labels.write_text("name: dies\nlabels:\n  - name: dies\n    death_days: 90\n")
    stays = invented(2)
    last = next(stay for stay in stays if not any(s["died"] for s in stays if s["subject"] == stay["subject"]))
    tables = as_omop(stays)
    end = datetime.fromisoformat([s for s in stays if s["subject"] == last["subject"]][-1]["end"])
    tables["death"].append(
        {"person_id": last["subject"], "death_datetime": str(end + timedelta(days=20)), "death_date": ""}
    )
    folder = write_related(tmp_path / "omop", tables, OMOP)
    options = (*OPTIONS, f"task.labels={labels}", "ingest.coding_delay_days=0")
    rows = ingest(folder, tmp_path / "out", *options, kind="omop")
    assert [row["subject_id"] for row in rows.values() if row["labels"] == [True]] == [str(last["subject"])]
    write_related(folder, {"death": []}, OMOP)
    assert main(["ingest", "omop", str(folder), "--out", str(tmp_path / "b"), *options]) == 2
    assert "holds no date of death" in capsys.readouterr().err


def test_patients_who_are_in_hospital_now_are_read_with_the_words_of_a_cohort(tmp_path):
    stays = invented(2)
    folder = write_related(tmp_path / "omop", as_omop(stays), OMOP)
    rows = ingest(folder, tmp_path / "out", *OPTIONS, kind="omop")
    assert main(["ingest", "omop", str(folder), "--like", str(tmp_path / "out"), "--out", str(tmp_path / "now")]) == 0
    last = {visit: row for visit, row in rows_of(tmp_path / "now").items() if rows[visit]["split"] == "held_out"}
    assert last and all(rows[visit]["input"] == row["input"] for visit, row in last.items())


def test_a_stay_that_begins_on_the_day_of_birth_is_the_newborn_s_own(tmp_path):
    stays = invented(2)
    stays[0] |= {"start": f"{stays[0]['born'].date()} 07:00:00"}
    source = open_source("omop", str(write_related(tmp_path / "omop", as_omop(stays), OMOP)))
    assert source.scan("visits").filter("newborn").collect()["visit_id"].to_list() == [str(stays[0]["visit"])]


def test_other_outcomes_in_held_out_change_no_row_of_train_or_tuning(tmp_path):
    stays = invented(2)
    rows = ingest(write_related(tmp_path / "a", as_omop(stays), OMOP), tmp_path / "out", *OPTIONS, kind="omop")
    held_out = {row["subject_id"] for row in rows.values() if row["split"] == "held_out"}
    last = {stay["subject"]: stay for stay in stays if str(stay["subject"]) in held_out}
    for stay in last.values():
        stay["codes"] = [("9", "486")]
    after = ingest(write_related(tmp_path / "b", as_omop(stays), OMOP), tmp_path / "other", *OPTIONS, kind="omop")
    changed = {visit for visit, row in rows.items() if after[visit] != row}
    assert changed and {rows[visit]["split"] for visit in changed} == {"held_out"}
    before = changed - {str(stay["visit"]) for stay in last.values()}  # their labels are others now, their text is not
    assert before and all(after[visit]["input"] == rows[visit]["input"] for visit in before)
    assert (tmp_path / "out" / "association.csv").read_bytes() == (tmp_path / "other" / "association.csv").read_bytes()
