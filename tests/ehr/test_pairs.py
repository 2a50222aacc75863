"""Next-visit pairs: against the rules in plain Python, and on the open MIMIC demos."""

from collections import Counter
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckd.ehr import pairs
from ckd.ehr.pairs import REASONS, Rules, chain
from tests.ehr.ehr_reference import COLUMNS, chain_by_hand
from tests.ehr.mimic_rows import open_data

DAY = timedelta(days=1)
DEFAULT = Rules(coding_delay_days=3, newborns=False)
SCHEMA = {
    "visit_id": pl.String,
    "subject_id": pl.String,
    "start": pl.Datetime("us"),
    "start_bad": pl.Boolean,
    "end": pl.Datetime("us"),
    "end_bad": pl.Boolean,
    "died": pl.Boolean,
    "newborn": pl.Boolean,
    "coded": pl.Boolean,
}


def admission(visit_id, first_day=0.0, last_day=0.0, **other):
    """Subject "s", admitted and discharged so many days after an arbitrary noon."""
    noon = datetime.fromisoformat("2150-01-01T12:00")  # naive, as the tables are
    start, end = (None if day is None else noon + day * DAY for day in (first_day, last_day))
    row = {
        "visit_id": visit_id,
        "subject_id": "s",
        "start": start,
        "end": end,
        "start_bad": False,
        "end_bad": False,
        "died": False,
    }
    return {**row, "newborn": False, "coded": True, **other}


def run(rows, rules=DEFAULT):
    return chain(pl.DataFrame(rows, schema=SCHEMA).with_row_index("place"), rules).drop("place")


def verdicts(rows, rules=DEFAULT):
    return {row["visit_id"]: (row["reason"] or row["next_id"] or row["role"]) for row in run(rows, rules).to_dicts()}


def rarely(usual, *rare):
    return st.sampled_from([usual] * 8 + list(rare))


@st.composite
def random_admissions(draw):
    # Few subjects and quarter days: ties, overlaps, same days and short gaps are all common.
    rows = []
    for visit_id in draw(st.permutations(["1", "2", "9", "10", "A", "a", "é"]))[: draw(st.integers(0, 7))]:
        first = draw(rarely(draw(st.integers(0, 48)) / 4, None))
        stayed = draw(rarely(draw(st.integers(0, 12)) / 4, None, -0.25, -1))
        last = None if stayed is None else (first or 0) + stayed
        flags = {
            name: draw(rarely(usual, not usual, None))
            for name, usual in (("died", False), ("newborn", False), ("coded", True))
        }
        bad = {"start_bad": first is None and draw(st.booleans()), "end_bad": last is None and draw(st.booleans())}
        rows.append(admission(visit_id, first, last, subject_id=draw(rarely("s", "t", "t", "t", None)), **bad, **flags))
    return rows


rules = st.builds(Rules, coding_delay_days=st.sampled_from([0, 0.5, 1, 3]), newborns=st.booleans())


@settings(max_examples=300)
@given(random_admissions(), rules)
@example([], DEFAULT)
def test_the_chain_is_the_one_made_by_hand(rows, rules):
    expected = chain_by_hand(rows, rules.coding_delay_days, rules.newborns)
    found = {row["visit_id"]: {name: row[name] for name in COLUMNS} for row in run(rows, rules).to_dicts()}
    assert found == expected


@settings(max_examples=100)
@given(random_admissions().flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))), rules)
def test_the_order_of_the_rows_changes_nothing(both, rules):
    assert run(both[0], rules).equals(run(both[1], rules))


@settings(max_examples=100)
@given(random_admissions(), rules)
def test_admissions_add_up_and_every_pair_is_sound(rows, rules):
    found = run(rows, rules)
    assert found["visit_id"].sort().to_list() == sorted(row["visit_id"] for row in rows)
    assert found["role"].is_in(["pair", "last", "excluded"]).all()
    assert ((found["role"] == "excluded") == found["reason"].is_in(list(REASONS))).all()
    chosen = found.filter(pl.col("role") == "pair")
    assert (chosen["visit_id"] != chosen["next_id"]).all()
    assert chosen["next_id"].is_unique().all()
    following = chosen.join(found, left_on="next_id", right_on="visit_id", how="left")
    assert (following["prediction_time"] < following["start_right"]).all()
    assert (following["subject_id"] == following["subject_id_right"]).all()


@settings(max_examples=100)
@given(random_admissions(), st.sampled_from(["died", "end", "coded"]))
def test_what_befalls_the_last_stay_reaches_only_the_one_before_and_only_as_missing_codes(rows, what):
    stays = run(rows).filter(pl.col("stay_id").is_not_null())
    last = set(stays.group_by("subject_id").agg(pl.col("stay_id").sort_by("start", "visit_id").last())["stay_id"])
    members = set(stays.filter(pl.col("stay_id").is_in(list(last)))["visit_id"])
    # Every admission of each last stay dies, ends a year later, or loses its codes; the rest stays as it is.
    new = {"died": lambda row: True, "coded": lambda row: False, "end": lambda row: row["end"] + 365 * DAY}[what]
    rewritten = [{**row, what: new(row)} if row["visit_id"] in members else row for row in rows]
    after = {row["visit_id"]: row for row in run(rewritten).to_dicts()}
    for old in run(rows).to_dicts():
        now = after[old["visit_id"]]
        if old["visit_id"] not in members and now != old:
            assert what == "coded"
            assert now["reason"] == pairs.NEXT_NOT_CODED
            assert old["next_id"] in last or old["reason"] == pairs.NEXT_TOO_SOON


def test_an_admission_inside_an_earlier_longer_one_does_not_end_the_stay():
    rows = [admission("a", 0, 20), admission("b", 2, 3), admission("c", 19, 25, died=None), admission("d", 40, 41)]
    assert verdicts(rows) == {"a": "d", "b": pairs.MERGED, "c": pairs.MERGED, "d": "last"}
    stay = run(rows).row(0, named=True)
    assert (stay["end"], stay["prediction_time"]) == (rows[2]["end"], rows[2]["end"] + 3 * DAY)


def test_a_transfer_on_the_day_of_discharge_is_one_stay_and_the_next_morning_is_not():
    assert verdicts([admission("a", 0, 1), admission("b", 1.4, 2)])["b"] == pairs.MERGED
    assert verdicts([admission("a", 0, 1), admission("b", 1.6, 2)]) == {"a": pairs.NEXT_TOO_SOON, "b": "last"}


def test_a_merged_stay_has_died_or_has_codes_if_any_part_has():
    rows = [admission("a", 0, 1), admission("b", 9, 10, coded=False), admission("c", 10, 11, died=True)]
    assert verdicts(rows) == {"a": "b", "b": pairs.DIED, "c": pairs.MERGED}


def test_an_admission_of_unknown_end_keeps_its_place():
    known = [admission("a", 0, 1), admission("c", 30, 31)]
    assert verdicts([*known, admission("b", 9, None)]) == {"a": pairs.NEXT_UNUSABLE, "b": pairs.NO_END, "c": "last"}
    assert verdicts([*known, admission("b", 9, None, end_bad=True)])["b"] == pairs.BAD_END
    assert verdicts([*known, admission("b", 9, 8)])["b"] == pairs.END_FIRST
    assert verdicts([*known, admission(None, 9, 10)]) == {"a": pairs.NEXT_UNUSABLE, None: pairs.NO_VISIT, "c": "last"}


def test_an_admission_of_unknown_start_is_placed_by_its_end():
    known = [admission("a", 0, 1), admission("c", 30, 31), admission("d", 60, 61)]
    between = {"a": pairs.NEXT_UNUSABLE, "b": pairs.NO_START, "c": "d", "d": "last"}
    assert verdicts([*known, admission("b", None, 10)]) == between
    bad = admission("b", None, 10, start_bad=True)
    assert verdicts([*known, bad]) == {**between, "b": pairs.BAD_START}
    before = admission("b", None, -10)
    assert verdicts([*known, before]) == {"a": "c", "b": pairs.NO_START, "c": "d", "d": "last"}
    after = admission("b", None, 90)
    assert verdicts([*known, after])["d"] == pairs.NEXT_UNUSABLE


def test_an_admission_of_unknown_start_that_ends_in_a_stay_leaves_neither_that_stay_nor_the_one_before():
    known = [admission("a", 0, 1), admission("c", 30, 35), admission("d", 60, 61), admission("e", 90, 91)]
    for end in (29.6, 30, 33, 35.3):  # c begins at day 30's noon and ends at day 35's
        found = verdicts([*known, admission("b", None, end)])
        assert (found["a"], found["c"], found["d"]) == (pairs.NEXT_UNUSABLE, pairs.PART_UNPLACED, "e")


def test_an_admission_without_either_time_may_lie_between_any_two():
    rows = [admission("a", 0, 1), admission("c", 30, 31), admission("d", 60, 61), admission("b", None, None)]
    found = verdicts([*rows, admission("o", 0, 1, subject_id="t"), admission("p", 30, 31, subject_id="t")])
    wanted = {"a": pairs.UNPLACED, "b": pairs.NO_START, "c": pairs.UNPLACED, "d": "last", "o": "p", "p": "last"}
    assert found == wanted


def test_the_codes_must_be_complete_before_the_next_stay_begins_not_just_when_it_begins():
    rows = [admission("a", 0, 1), admission("b", 4, 5)]
    assert verdicts(rows)["a"] == pairs.NEXT_TOO_SOON
    assert verdicts(rows, Rules(coding_delay_days=2.99, newborns=False))["a"] == "b"


def test_equal_times_are_ordered_by_visit_id_as_text():
    rows = [admission(name, 0, 1) for name in ("9", "10")]
    assert verdicts(rows) == {"10": "last", "9": pairs.MERGED}


def _times(name):
    return pl.col(name).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us")


def demo(folder, admissions, diagnoses):
    """The canonical admissions of a demo, read with nothing but polars."""
    files = [pl.read_csv(folder / f"{name}.csv.gz", infer_schema=False) for name in (admissions, diagnoses)]
    table, codes = (file.rename(str.lower) for file in files)
    code = "icd9_code" if "icd9_code" in codes.columns else "icd_code"
    return table.select(
        "subject_id",
        visit_id="hadm_id",
        start=_times("admittime"),
        end=_times("dischtime"),
        start_bad=pl.lit(False),
        end_bad=pl.lit(False),
        died=pl.col("hospital_expire_flag") == "1",
        newborn=pl.col("admission_type") == "NEWBORN",
        coded=pl.col("hadm_id").is_in(codes.drop_nulls(code)["hadm_id"].implode()),
    )


DEMOS = {
    "mimic3_demo": (
        "ADMISSIONS",
        "DIAGNOSES_ICD",
        (129, 29, 14),
        {"pair": 28, "last": 60, pairs.DIED: 40, pairs.NEXT_TOO_SOON: 1},
    ),
    "mimic4_demo/hosp": (
        *("admissions", "diagnoses_icd", (275, 175, 48)),
        {"pair": 165, "last": 85, pairs.DIED: 15, pairs.NEXT_TOO_SOON: 7, pairs.MERGED: 3},
    ),
}


@pytest.mark.parametrize("folder", DEMOS)
def test_the_demos_have_the_known_numbers_of_admissions_and_what_the_rules_exclude_adds_up(folder):
    admissions, diagnoses, (count, consecutive, returning), expected = DEMOS[folder]
    visits = demo(open_data() / folder, admissions, diagnoses).with_row_index("place")
    per_subject = Counter(visits["subject_id"])
    assert visits.height == count == sum(expected.values())
    assert sum(n - 1 for n in per_subject.values()) == consecutive
    assert sum(n > 1 for n in per_subject.values()) == returning
    found = chain(visits, DEFAULT)
    assert Counter(row["reason"] or row["role"] for row in found.to_dicts()) == expected
    by_hand = chain_by_hand(visits.to_dicts(), 3, newborns=False)
    assert {row["visit_id"]: {column: row[column] for column in COLUMNS} for row in found.to_dicts()} == by_hand
