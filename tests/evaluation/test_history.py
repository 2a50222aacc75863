import dataclasses
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.evaluation.baselines import NotComputable, fit_all
from ckd.evaluation.history import before, moment, read_history
from ckd.evaluation.scores import NotComputableError, Splits, read_split
from ckd.visits.labels import NUM_LABELS
from tests.evaluation.evaluation_cohort import make_visits, write_cohort


def stays(subjects=60, most=5, seed=0):
    """One to five visits per subject in random order: a label is what the next visit records; the last has none."""
    rng, visits = np.random.default_rng(seed), make_visits((0, 0, subjects * most))
    made = []
    for subject in range(subjects):
        count = int(rng.integers(1, most + 1))
        own = rng.random((count + 1, NUM_LABELS)) < 0.3
        for k in range(count):
            made.append(
                dataclasses.replace(
                    visits[len(made)],
                    subject_id=f"s{subject}",
                    current_labels=tuple(map(bool, own[k])),
                    labels=tuple(map(bool, own[k + 1])) if k + 1 < count else None,
                    prediction_time=(date(2150, 1, 1) + timedelta(days=int(40 * k))).isoformat(),
                )
            )
    return [made[i] for i in rng.permutation(len(made))]


def slow(subjects, times, current, row):
    """A visit's history, looked up one visit at a time."""
    earlier = [i for i in range(len(subjects)) if subjects[i] == subjects[row] and times[i] < times[row]]
    latest = [i for i in earlier if times[i] == max(times[k] for k in earlier)]
    return current[latest].any(0), current[earlier].any(0), len(earlier)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 7)), max_size=14))
def test_history_equals_a_slow_search_in_any_order_of_the_visits(rows):
    subjects, times = [r[0] for r in rows], [float(r[1]) for r in rows]
    current = np.zeros((len(rows), NUM_LABELS), dtype=bool)
    for i, row in enumerate(rows):
        current[i, :3] = [row[2] & 1, row[2] & 2, row[2] & 4]
    last, ever, earlier = before(subjects, times, current)
    for i in range(len(rows)):
        one, all_of_them, count = slow(subjects, times, current, i)
        assert (last[i] == one).all() and (ever[i] == all_of_them).all() and earlier[i] == count


def test_no_label_of_any_visit_changes_a_feature(tmp_path):
    visits = stays()
    turned = [
        v if v.labels is None else dataclasses.replace(v, labels=tuple(not flag for flag in v.labels)) for v in visits
    ]
    first, second = (
        read_history(write_cohort(tmp_path / name, rows), "held_out").features()
        for name, rows in (("a", visits), ("b", turned))
    )
    assert first.shape == (sum(v.labels is not None for v in visits), 80) and (first == second).all()


def test_nothing_recorded_later_changes_a_visits_features(tmp_path):
    visits = stays()
    order = [v.visit_id for v in visits if v.labels is not None]
    whole = read_history(write_cohort(tmp_path / "whole", visits), "held_out").features()
    cut = "2150-03-01"  # what happens afterwards is turned over
    later = [
        dataclasses.replace(v, current_labels=tuple(not flag for flag in v.current_labels), subgroups={})
        if v.prediction_time > cut
        else v
        for v in visits
    ]
    changed = read_history(write_cohort(tmp_path / "later", later), "held_out").features()
    time_of = {v.visit_id: v.prediction_time for v in visits}
    old = np.array([time_of[visit] <= cut for visit in order])
    assert (
        10 < old.sum() < len(old) and (whole[old] == changed[old]).all() and (whole[~old] != changed[~old]).any(1).all()
    )


def test_features_of_another_split_stay_there(tmp_path):
    visits = make_visits((40, 40, 40))
    same = [dataclasses.replace(v, subject_id="one") if v.split == "train" else v for v in visits]
    first = read_history(write_cohort(tmp_path / "a", visits), "held_out").features()
    second = read_history(write_cohort(tmp_path / "b", same), "held_out").features()
    assert (first == second).all() and first[:, 75].max() == pytest.approx(np.log(2))  # two visits per subject


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"subject_id": None}, "held_out visits without subject_id: at least 1"),
        ({"prediction_time": None}, "held_out visits without a prediction_time"),
        ({"prediction_time": "zyx"}, "held_out visits without a prediction_time"),
        ({"current_labels": None}, "held_out visits without current labels"),
    ],
)
def test_one_visit_without_what_the_features_need_is_a_reason(tmp_path, change, reason):
    visits = make_visits((0, 0, 20))
    visits[3] = dataclasses.replace(visits[3], **change)
    with pytest.raises(NotComputableError, match=reason):
        read_history(write_cohort(tmp_path, visits), "held_out")


def test_a_cohort_without_ages_has_the_other_baselines(tmp_path):
    visits = [dataclasses.replace(v, subgroups={"sex": "F"}) for v in make_visits((60, 40, 40))]
    cohort = write_cohort(tmp_path, visits)
    splits = (read_split(cohort, split) for split in ("train", "tuning", "held_out"))
    results = fit_all(Splits(cohort, *splits), 0, lambda line: None)
    assert results["history_logreg"] == NotComputable("no train visit has a known age")
    assert not isinstance(results["label_logreg"], NotComputable)


def test_one_unknown_age_or_sex_is_a_feature_of_its_own(tmp_path):
    visits = make_visits((0, 0, 4))
    visits[0] = dataclasses.replace(visits[0], subgroups={"age": "> 89", "sex": "female"})
    visits[1] = dataclasses.replace(visits[1], subgroups={})
    rows = read_history(write_cohort(tmp_path, visits), "held_out").features()
    assert rows[:2, 76:].tolist() == [[8.9, 1, 1, 0], [0, 0, 0, 0]]


def test_dates_and_times_are_ordered_as_times_not_as_text():
    assert (
        moment("2150-01-01")
        < moment("2150-01-01T00:00:01")
        < moment("2150-01-01 09:30:00+02:00")
        < moment("2150-01-01T08:00:00Z")
    )
    assert np.isnan(moment(None)) and np.isnan(moment("soon"))
