"""eICU-CRD folders: the cohort of the same patients as generic tables, cells with several codes, refusals; and the
order of stays, never told where the data does not tell it."""

import json
import random
from datetime import timedelta
from itertools import permutations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd.ehr.eicu import codes_in
from ckd.ehr.icdtext import version_of
from ckd.ehr.kinds import open_source
from ckd.ehr.pairs import Rules, chain
from ckd.ehr.stay_order import placed
from jobs.cli import main
from tests.ehr.ehr_tables import write_tables
from tests.ehr.ingest_reference import ingest
from tests.ehr.related_tables import EICU, as_eicu, as_generic, invented, write_related

OPTIONS = ("ingest.min_support=1", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
SAME = ("visit_id", "subject_id", "split", "input", "labels", "current_labels", "age", "sex", "ethnicity")
MARKER = "Zebra"


def same(rows):
    """What two cohorts share whose times and ids of patients are written differently."""
    return {visit: {name: row[name] for name in SAME} for visit, row in rows.items()}


def eicu_rows(tmp_path, tables, *settings, **options):
    folder = write_related(tmp_path / "eicu", tables, EICU, **options)
    return ingest(folder, tmp_path / "out-eicu", *OPTIONS, *settings, kind="eicu")


@pytest.mark.parametrize(("seed", "options"), [(0, {}), (1, {"suffix": ".parquet"}), (2, {"upper": True})])
def test_the_same_patients_as_generic_tables_give_the_same_rows(tmp_path, seed, options):
    stays = invented(seed)
    for stay in stays:
        stay |= {"procedures": [], "start": stay["start"][:10] + " 07:00:00", "end": stay["end"][:10] + " 23:00:00"}
    generic = as_generic(stays)
    for name in ("visits", "diagnoses", "medications"):
        for row in generic[name]:
            row["subject_id"] = f"002-{row['subject_id']}"
    wanted = ingest(write_tables(tmp_path / "t", generic), tmp_path / "out", *OPTIONS, kind="tables")
    found = eicu_rows(tmp_path, as_eicu(stays), "ingest.partitions=3", "ingest.coding_delay_days=30", **options)
    assert same(found) == same(wanted)
    assert sum(row["labels"] is not None for row in wanted.values()) > 10
    card = json.loads((tmp_path / "out-eicu" / "card.json").read_text())
    assert card["codes_passed_over"][0]["prefix"] == "cancelled orders"
    assert card["source"]["unordered"] == {"stays": 0, "subjects": 0}
    assert "no dates" in card["source"]["notes"][0]


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("038.9, A41.9", [("038.9", "9")]),
        ("A41.9, 038.9", [("A41.9", "10")]),
        ("I50.9", [("I50.9", "10")]),
        ("428.0,  410.71, I50.9", [("428.0", "9"), ("410.71", "9")]),
        ("999, A41.9", [("A41.9", "10")]),  # the first has no category
        ("V45.81, Z95.1", [("V45.81", "9")]),
        ("E849.7", [("E849.7", "9")]),
        ("E11.9", [("E11.9", "10")]),
        ("somewhere", [("somewhere", None)]),
        (" ", []),
    ],
)
def test_a_cell_with_two_codes_is_one_diagnosis_of_the_edition_that_is_known(cell, wanted):
    assert codes_in(cell) == wanted


@pytest.mark.parametrize(
    ("code", "version"),
    [
        *(("428.0", "9"), ("4280", "9"), ("I50.9", "10"), ("V45.81", "9"), ("E11.9", "10"), ("E119", "10")),
        *(("E849.7", "9"), ("E8497", "9"), ("z95.1 ", "10"), ("12", None), ("", None), ("428.000", None)),
    ],
)
def test_the_form_of_a_code_tells_its_edition(code, version):
    assert version_of(code) == version


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"hospitaldischargeoffset": MARKER}, "column 'hospitaldischargeoffset' holds no whole number"),
        ({"hospitaldischargeyear": "2014.5"}, "column 'hospitaldischargeyear' holds no whole number"),
        ({"hospitaldischargestatus": MARKER}, "column 'hospitaldischargestatus' is neither Alive nor Expired"),
        ({"patientunitstayid": 10_001}, "this patientunitstayid is there already"),
        ({"patienthealthsystemstayid": ""}, "have no visit id"),
    ],
)
def test_a_patient_s_row_that_cannot_be_used_is_refused_with_its_line(tmp_path, capsys, cells, says):
    tables = as_eicu(invented(2))
    tables["patient"][1] |= cells
    folder = write_related(tmp_path / "eicu", tables, EICU)
    assert main(["ingest", "eicu", str(folder), "--out", str(tmp_path / "out"), *OPTIONS]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{folder / 'patient.csv'}:3: " in line and says in line and MARKER not in line


@pytest.mark.parametrize("name", EICU)
def test_a_missing_table_is_refused(tmp_path, capsys, name):
    tables = as_eicu(invented(2))
    del tables[name]
    folder = write_related(tmp_path / "eicu", tables, EICU)
    assert main(["ingest", "eicu", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert f"no table '{name}'" in capsys.readouterr().err


def test_labels_and_texts_that_need_days_between_stays_are_refused(tmp_path, capsys):
    folder = write_related(tmp_path / "eicu", as_eicu(invented(2)), EICU)
    labels = tmp_path / "labels.yaml"
    labels.write_text("name: back\nlabels:\n  - name: back\n    readmission_days: 30\n")
    assert main(["ingest", "eicu", str(folder), "--out", str(tmp_path / "out"), f"task.labels={labels}"]) == 2
    assert "label 'back' needs days between stays" in (line := capsys.readouterr().err) and "holds no dates" in line
    assert main(["ingest", "eicu", str(folder), "--out", str(tmp_path / "out"), "ingest.history=1"]) == 2
    assert (
        "ingest.history=1: a text tells how many days ago" in (line := capsys.readouterr().err)
        and line.count("\n") == 1
    )


def test_labels_that_are_given_by_a_column_are_refused(tmp_path, capsys):
    folder = write_related(tmp_path / "eicu", as_eicu(invented(2)), EICU)
    labels = tmp_path / "labels.yaml"
    labels.write_text("name: ward\nlabels:\n  - name: ward\n    given: hospitalid\n")
    assert main(["ingest", "eicu", str(folder), "--out", str(tmp_path / "out"), f"task.labels={labels}"]) == 2
    assert "label 'ward' is given by 'hospitalid', which is not read from eicu" in capsys.readouterr().err


def test_a_stay_of_two_units_takes_the_age_of_the_first_and_one_with_two_patients_has_none(tmp_path):
    tables = as_eicu(invented(2))
    two = [row for row in tables["patient"] if row["patienthealthsystemstayid"] == 1001]
    other = [row for row in tables["patient"] if row["patienthealthsystemstayid"] == 1003]
    two[0]["age"], two[1]["age"], other[1]["uniquepid"] = 50, 51, "somebody"
    tables["patient"].reverse()
    source = open_source("eicu", str(write_related(tmp_path / "eicu", tables, EICU)))
    found = {row["visit_id"]: row for row in source.scan("visits").collect().to_dicts()}
    assert found["1001"]["age"] == "50" and found["1003"]["subject_id"] is None


def test_a_death_in_the_unit_is_one_in_hospital(tmp_path):
    tables = as_eicu(invented(2))
    for row in tables["patient"]:
        row["hospitaldischargestatus"] = "" if row["patienthealthsystemstayid"] == 1001 else "Alive"
    tables["patient"][1]["unitdischargestatus"] = "Expired"
    source = open_source("eicu", str(write_related(tmp_path / "eicu", tables, EICU)))
    wanted = [str(tables["patient"][1]["patienthealthsystemstayid"])]
    assert source.scan("visits").filter("died").collect()["visit_id"].to_list() == wanted


def test_stays_of_one_year_and_age_make_no_pair_and_are_counted(tmp_path):
    stays = invented(0)
    subject = next(s["subject"] for s in stays if sum(t["subject"] == s["subject"] for t in stays) >= 4)
    mine = [stay["visit"] for stay in stays if stay["subject"] == subject]
    tables = as_eicu(stays)
    for row in tables["patient"]:
        if row["patienthealthsystemstayid"] in mine[1:3]:
            row |= {"hospitaldischargeyear": 2011, "age": 66, "hospitaldischargestatus": "Alive"}
        elif row["patienthealthsystemstayid"] in mine:
            row["age"] = 65 if row["patienthealthsystemstayid"] == mine[0] else 70
    rows = eicu_rows(tmp_path, tables)
    assert not {str(visit) for visit in mine[:3]} & set(rows)  # before them nobody knows which comes next
    card = json.loads((tmp_path / "out-eicu" / "card.json").read_text())
    assert card["source"]["unordered"] == {"stays": 2, "subjects": 1}
    excluded = {reason: e["rows"] for reason, e in card["admissions"]["excluded"].items()}
    assert excluded["no admission time"] == 2 and excluded["next admission cannot be used"] == 1


def test_stays_that_are_all_of_one_year_and_age_are_refused_with_the_reason(tmp_path, capsys):
    tables = as_eicu(invented(0))
    for row in tables["patient"]:
        row |= {"hospitaldischargeyear": 2014, "age": 66, "hospitaldischargestatus": "Alive"}
    folder = write_related(tmp_path / "eicu", tables, EICU)
    assert main(["ingest", "eicu", str(folder), "--out", str(tmp_path / "out"), *OPTIONS]) == 2
    said = capsys.readouterr()
    assert "no next-visit pair" in said.err and "patients have no known order (of one year and age" in said.out
    assert "nothing in eICU orders stays of one year of discharge and one age" in said.err
    assert "give each admission its time" not in said.err


STAYS = st.lists(
    st.tuples(
        st.sampled_from([2014, 2014, 2015, None]),
        st.sampled_from([60, 61, 62, None]),
        st.booleans(),
        st.integers(0, 90_000),
    ),
    min_size=1,
    max_size=5,
)


def possible_orders(stays):
    """Every order of the stays' numbers that years, ages and a death at the end allow; slow and plain."""
    for order in permutations(range(len(stays))):
        rows = [stays[n] for n in order]
        years = [year for year, *_ in rows if year is not None]
        ages = [age for _, age, *_ in rows if age is not None]
        if years == sorted(years) and ages == sorted(ages) and not any(died for _, _, died, _ in rows[:-1]):
            yield order


@settings(max_examples=300, deadline=None)
@given(STAYS, st.randoms(use_true_random=False))
def test_every_pair_that_is_kept_is_one_in_every_order_that_the_data_allows(stays, rng):
    numbered = list(enumerate(stays))
    rng.shuffle(numbered)
    frame = pl.DataFrame(
        [(str(n), "p", *stay) for n, stay in numbered],
        schema={"visit_id": pl.String, "subject_id": pl.String, "year": pl.Int64, "years": pl.Int64}
        | {"died": pl.Boolean, "minutes": pl.Int64},
        orient="row",
    )
    rows = placed(frame).with_columns(
        place=pl.int_range(pl.len(), dtype=pl.UInt64),
        **dict.fromkeys(("start_bad", "end_bad", "newborn"), pl.lit(False)),
        coded=pl.lit(True),
    )
    judged = chain(rows, Rules(coding_delay_days=30, newborns=False))
    orders = list(possible_orders(stays))
    pairs = [(int(v), int(n)) for v, n in judged.filter(pl.col("role") == "pair").select("visit_id", "next_id").rows()]
    for one, following in pairs:
        assert orders and all(order.index(following) == order.index(one) + 1 for order in orders)
    complete = all(year is not None and age is not None for year, age, *_ in stays)
    if complete and len(orders) == 1:
        assert len(pairs) == len(stays) - 1
    lengths = rows.drop_nulls(["start", "end"]).select(pl.col("end") - pl.col("start"), "minutes").rows()
    assert all(length == timedelta(minutes=minutes) for length, minutes in lengths)


def test_the_order_of_rows_and_ids_says_nothing():
    rng = random.Random(1)
    rows = [(str(n), f"p{n % 7}", 2014 + n % 2, 60 + n % 2, False, n) for n in range(20)]
    schema = ("visit_id", "subject_id", "year", "years", "died", "minutes")
    wanted = placed(pl.DataFrame(rows, schema, orient="row")).sort("visit_id")
    rng.shuffle(rows)
    assert placed(pl.DataFrame(rows, schema, orient="row")).sort("visit_id").equals(wanted)


def test_other_outcomes_in_held_out_change_no_row_of_train_or_tuning(tmp_path):
    stays = invented(2)
    rows = eicu_rows(tmp_path / "a", as_eicu(stays))
    held_out = {row["subject_id"] for row in rows.values() if row["split"] == "held_out"}
    last = {stay["subject"]: stay for stay in stays if f"002-{stay['subject']}" in held_out}
    for stay in last.values():
        stay["codes"] = [("9", "486")]
    after = eicu_rows(tmp_path / "b", as_eicu(stays))
    changed = {visit for visit, row in rows.items() if after[visit] != row}
    assert changed and {rows[visit]["split"] for visit in changed} == {"held_out"}
    before = changed - {str(stay["visit"]) for stay in last.values()}  # their labels are others now, their text is not
    assert before and all(after[visit]["input"] == rows[visit]["input"] for visit in before)
