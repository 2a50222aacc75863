"""Subgroups and small cells: what is told of few visits, and what is not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.config import EvaluationConfig
from ckd.evaluation.alerts import at_threshold
from ckd.evaluation.calibrate import calibrate_student, log_odds
from ckd.evaluation.evaluate import evaluate
from ckd.evaluation.scores import read_split
from ckd.evaluation.small_cells import MIN_CELL, OTHER, WITHHELD, parts_text, pooled, shown, total_tells
from ckd.evaluation.subgroups import UNKNOWN, age_band, read_fields
from tests.evaluation.evaluation_cohort import MARKER, make_visits, write_all

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """160 held_out visits of 80 patients: ages, two sexes, one insurance; no admission type.

    One value of ethnicity is a patient's words.
    """
    visits = []
    for row, visit in enumerate(make_visits()):
        ethnicity = MARKER if row == 430 else "WHITE" if row % 3 else "BLACK"
        age = ["30", "50", "70", "85", "90", None][row // 2 % 6]
        groups = {"age": age, "sex": "FM"[row // 2 % 2], "ethnicity": ethnicity, "insurance": "Medicare"}
        groups["our clinic"] = MARKER if row == 430 else "Süd" if row % 4 else None
        visits.append(replace(visit, subgroups={name: value for name, value in groups.items() if value is not None}))
    return write_all(tmp_path_factory.mktemp("subgroups"), visits)


@pytest.fixture(scope="module")
def metrics(cohort):
    return evaluate(cohort, seed=0, wanted=EvaluationConfig(resamples=100), say=lambda line: None)


@pytest.fixture(scope="module")
def block(metrics):
    return metrics["subgroups"]


def test_ages_become_bands():
    ages = {
        "17": "0–17",
        "18": "18–44",
        "44.9": "18–44",
        "65": "65–79",
        "89": "80–89",
        "90": "90+",
        "90+": "90+",
        "300": "90+",
        " 45 ": "45–64",
    }
    assert {age: age_band(age) for age in ages} == ages
    assert {age_band(age) for age in (None, "", "old", "-1", "nan")} == {UNKNOWN}


def test_a_group_has_its_figures_as_a_plain_count_gives_them(cohort, metrics, block):
    rows = read_split(cohort, "held_out", ["predictions"])
    thresholds = metrics["thresholds"]["student"]["values"]
    calibrated = calibrate_student(cohort, EvaluationConfig(), 0).probabilities(log_odds(rows.scores["predictions"]))
    women = read_fields(cohort, "held_out")["sex"] == "F"
    found = next(group for group in block["fields"]["sex"]["groups"] if group["group"] == "F")
    pairs = events = hits = alarms = 0
    predicted = 0.0
    for row in np.flatnonzero(women):
        for j, disease in enumerate(thresholds):
            if disease in block["labels"]:
                p, event = float(calibrated[row, j]), bool(rows.labels[row, j])
                alarm = p >= thresholds[disease]
                pairs, events, predicted, hits, alarms = (
                    pairs + 1,
                    events + event,
                    predicted + p,
                    hits + (alarm and event),
                    alarms + alarm,
                )
    assert found["visits"] == women.sum() == 80
    assert found["sensitivity"] == pytest.approx(hits / events)
    assert found["predicted_minus_observed"] == pytest.approx((predicted - events) / pairs)
    assert found["alerts_per_100"] == pytest.approx(100 * alarms / pairs)
    low, high = found["intervals"]["sensitivity"]
    assert low < found["sensitivity"] < high


def test_a_label_with_few_events_in_a_group_is_not_told_there(cohort, block):
    rows, ages = read_split(cohort, "held_out"), read_fields(cohort, "held_out")["age"]
    seen = 0
    for group in block["fields"]["age"]["groups"]:
        where = ages == group["group"]
        for j, (_, figures) in enumerate(group["per_label"].items()):
            small = min(rows.labels[where, j].sum(), (~rows.labels[where, j]).sum()) < MIN_CELL
            assert figures is None or not small
            seen += small
    assert seen


def test_a_field_that_tells_nothing_says_why(block):
    assert block["fields"]["admission_type"] == {"reason": "not in the data", "groups": []}
    assert "fewer than two groups" in block["fields"]["insurance"]["reason"]


def test_a_subgroup_of_one_s_own_obeys_the_same_rules(block):
    groups = block["fields"]["our clinic"]["groups"]
    assert [(group["group"], group["visits"]) for group in groups] == [("Süd", 119), (OTHER, 41)]


def test_a_rare_value_is_pooled_and_its_name_not_told(block):
    assert [group["group"] for group in block["fields"]["ethnicity"]["groups"]] == ["WHITE", OTHER]
    assert MARKER not in str(block)


def test_few_patients_get_no_interval(block):
    for group in block["fields"]["age"]["groups"]:
        assert group["visits"] < 30 or group["group"] == OTHER
        assert set(group["intervals"].values()) == {None}


@given(COUNTS)
def test_no_small_count_is_shown_and_the_total_tells_none(counts):
    told = shown(counts)
    hidden = [count for count, tell in zip(counts, told, strict=True) if not tell]
    assert all(count >= MIN_CELL for count, tell in zip(counts, told, strict=True) if tell)
    assert not hidden or not any(told) or (len(hidden) >= 2 and sum(hidden) >= MIN_CELL)
    if all(count >= MIN_CELL for count in counts):
        assert all(told)


@given(COUNTS)
def test_a_total_may_be_told_when_it_leaves_a_small_count_to_guess(counts):
    parts = {str(place): count for place, count in enumerate(counts)}
    hidden = [counts[int(name)] for name, text in parts_text(parts).items() if text in (WITHHELD, f"<{MIN_CELL}")]
    assert total_tells(parts) == (bool(hidden) and (len(hidden) < 2 or sum(hidden) < MIN_CELL))


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 60), max_size=9), st.integers(1, 5))
def test_pooled_rows_are_never_small_unless_all_is(sizes, most):
    rows = pooled(sizes, most)
    together = {}
    for group, row in rows.items():
        together[row] = together.get(row, 0) + sizes[group]
    assert all(size >= MIN_CELL for size in together.values()) or set(rows.values()) == {OTHER}
    assert len(set(rows.values()) - {OTHER}) <= most


def test_one_small_part_takes_another_with_it():
    assert parts_text({"a": 100, "b": 40, "c": 3, "d": 0}) == {"a": "100", "b": "withheld", "c": "<10", "d": "0"}
    assert parts_text({"a": 100, "b": 40}) == {"a": "100", "b": "40"}


def test_alerts_are_counted_as_by_hand():
    y, p = np.array([True, True, False, False, False]), np.array([0.9, 0.2, 0.6, 0.5, 0.1])
    assert at_threshold(y, p >= 0.5) == {"sensitivity": 0.5, "specificity": 1 / 3, "ppv": 1 / 3, "alerts_per_100": 60.0}
    assert at_threshold(y, p >= 0.95)["ppv"] is None
