"""Choosing maps and thresholds: on tuning only, patients never split, the right kind for the number of positives."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ckd.calibration import Calibration, sigmoid
from ckd.config import EvaluationConfig
from ckd.configfile import load
from ckd.errors import ConfigError
from ckd.evaluation.calibrate import (
    FOLDS,
    NEEDED,
    calibrate,
    calibrate_student,
    choose_kinds,
    cross_fitted,
    fit,
    group_folds,
    log_odds,
)
from ckd.evaluation.evaluate import evaluate
from ckd.evaluation.reliability import expected_calibration_error, figures, recalibration
from ckd.evaluation.scores import read_split
from ckd.evaluation.thresholds import choose_thresholds, precision_threshold, sensitivity_threshold
from ckd.visits.labels import NUM_LABELS
from tests.evaluation.evaluation_cohort import MARKER, make_visits, noisy, rows_of, write_all, write_cohort, write_stage

F1 = EvaluationConfig()
PAIRS = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40).filter(
    lambda rows: any(y for y, _ in rows)
)


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    cohort = write_all(tmp_path_factory.mktemp("run"), make_visits())
    return read_split(cohort, "tuning", ["predictions"])


def made(n=3000, seed=0, bend=lambda z: 0.5 * z + 0.4):
    """z [n, 25], y [n, 25] with log-odds bend(z): prevalence falls from label to label. Groups of three."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, NUM_LABELS)) - np.linspace(0, 16, NUM_LABELS)
    return z, rng.random(z.shape) < sigmoid(bend(z)), np.repeat(np.arange(n // 3, dtype=np.uint64), 3)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 5))
def test_no_patient_is_split_and_the_order_of_rows_plays_no_part(subjects, seed):
    groups = np.array(subjects, np.uint64)
    folds = group_folds(groups, seed)
    assert all(len(set(folds[groups == g])) == 1 for g in groups)
    per_fold = np.bincount(folds[np.unique(groups, return_index=True)[1]], minlength=FOLDS)
    assert per_fold.max() - per_fold.min() <= 1
    order = np.random.default_rng(0).permutation(len(groups))
    np.testing.assert_array_equal(group_folds(groups[order], seed), folds[order])


def test_a_visits_cross_fitted_probability_ignores_its_own_patients_labels():
    z, y, groups = made(600)
    folds = group_folds(groups, 0)
    changed = y.copy()
    changed[groups == 7] ^= True
    before, after = (cross_fitted(z, labels, np.ones_like(y), folds) for labels in (y, changed))
    mine = folds == folds[groups == 7][0]
    np.testing.assert_array_equal(before["temperature"][mine], after["temperature"][mine])
    for kind in ("platt", "isotonic"):
        known = ~np.isnan(before[kind][0]) & ~np.isnan(after[kind][0])
        np.testing.assert_array_equal(before[kind][mine][:, known], after[kind][mine][:, known])
        assert (before[kind][~mine][:, known] != after[kind][~mine][:, known]).any()


def test_a_kind_needs_its_number_of_positives_and_the_least_log_loss_wins():
    z, y, groups = made()
    crossed = cross_fitted(z, y, np.ones_like(y), group_folds(groups, 0))
    kinds, rarer = choose_kinds(crossed, y, np.ones_like(y)), np.minimum(y.sum(0), (~y).sum(0))
    assert rarer.min() < NEEDED["platt"] and rarer.max() > NEEDED["isotonic"]
    for j, kind in enumerate(kinds):
        losses = {
            name: -np.log(np.where(y[:, j], p[:, j], 1 - p[:, j])).sum()
            for name, p in crossed.items()
            if rarer[j] >= NEEDED[name]
        }
        assert set(losses) == {name for name, p in crossed.items() if not np.isnan(p[:, j]).any()}
        assert kind == min(losses, key=losses.get)
    assert {kind for kind, n in zip(kinds, rarer, strict=True) if n < NEEDED["platt"]} == {"temperature"}


def test_a_bend_that_no_line_can_follow_is_isotonics():
    z, y, groups = made(3000, bend=lambda z: np.where(z < 0, -3.0, 2.0))
    assert (
        choose_kinds(cross_fitted(z, y, np.ones_like(y), group_folds(groups, 0)), y, np.ones_like(y))[0] == "isotonic"
    )


def test_an_overconfident_model_becomes_calibrated_on_other_patients(tuning):
    z, y, groups = made(6000)
    half = rows_of(y[:3000], groups=groups[:3000])
    found = calibrate(half, sigmoid(z[:3000]), F1, 0)
    raw, calibrated = (
        figures(y[3000:, 0], p, np.full(3000, 0.5), None)
        for p in (sigmoid(z[3000:, 0]), found.probabilities(z[3000:])[:, 0])
    )
    assert raw["slope"] == pytest.approx(0.5, abs=0.07) and calibrated["slope"] == pytest.approx(1, abs=0.12)
    assert calibrated["ece"] < 0.6 * raw["ece"] and calibrated["brier"] < raw["brier"]


def test_thresholds_come_from_cross_fitted_calibrated_probabilities(tuning):
    found = calibrate(tuning, tuning.scores["predictions"], F1, 3)
    z, folds = log_odds(tuning.scores["predictions"]), group_folds(tuning.groups, 3)
    crossed = cross_fitted(z, tuning.labels, tuning.known, folds)
    kinds = choose_kinds(crossed, tuning.labels, tuning.known)
    assert [one.kind for one in found.maps] == kinds
    assert found.maps == fit(z, tuning.labels, tuning.known, kinds)
    expected = choose_thresholds(tuning, np.stack([crossed[kind][:, j] for j, kind in enumerate(kinds)], 1)).values
    np.testing.assert_array_equal(found.thresholds, expected)


def test_one_tuning_patient_or_none_leaves_the_probabilities_as_they_are(tuning):
    for labels in (tuning.labels[:0], tuning.labels[:2]):
        few = rows_of(labels, groups=tuning.groups[: len(labels)])
        found = calibrate(few, tuning.scores["predictions"][: len(labels)], F1, 0)
        assert {one.kind for one in found.maps} == {"none"}


def test_poisoned_held_out_labels_leave_calibration_json_bit_equal(tmp_path):
    visits = make_visits()
    written = []
    for name in ("clean", "poisoned"):
        poison = name == "poisoned"
        rows = [
            dataclasses.replace(v, labels=tuple(not x for x in v.labels)) if poison and v.split == "held_out" else v
            for v in visits
        ]
        cohort = write_cohort(tmp_path / name, rows)
        write_stage(cohort, "predictions", noisy(visits, 1))
        path = tmp_path / f"{name}.json"
        calibrate_student(cohort, F1, 0).save(str(path), cohort.task.names, "m")
        written.append(path.read_bytes())
    assert written[0] == written[1] and MARKER.encode() not in written[0]
    flipped = [
        dataclasses.replace(v, labels=tuple(not x for x in v.labels)) if v.split == "tuning" else v for v in visits
    ]
    cohort = write_cohort(tmp_path / "flipped", flipped)
    write_stage(cohort, "predictions", noisy(visits, 1))
    calibrate_student(cohort, F1, 0).save(str(tmp_path / "flipped.json"), cohort.task.names, "m")
    assert Path(tmp_path / "flipped.json").read_bytes() != written[0]


def test_metrics_use_the_maps_that_are_saved_and_tell_raw_from_calibrated(tmp_path):
    cohort = write_all(tmp_path, make_visits((60, 120, 60)))
    wanted = EvaluationConfig(threshold_for="sensitivity", threshold_target=0.8)
    metrics, found = (
        evaluate(cohort, seed=0, say=lambda _: None, wanted=wanted),
        calibrate_student(cohort, wanted, 0),
    )
    held_out = read_split(cohort, "held_out", ["predictions"])
    p = found.probabilities(log_odds(held_out.scores["predictions"]))
    assert list(metrics["thresholds"]["student"]["values"].values()) == found.thresholds.tolist()
    assert (metrics["thresholds"]["student"]["for"], metrics["thresholds"]["student"]["target"]) == ("sensitivity", 0.8)
    block, y, alarms = metrics["calibration"]["student"], held_out.labels, found.flags(p)
    assert block["calibrated"]["pooled"]["brier"] == pytest.approx(np.mean((p - y) ** 2))
    assert block["raw"]["pooled"]["brier"] == pytest.approx(metrics["held_out"]["student"]["micro"]["brier"])
    assert block["raw"]["pooled"]["distance_to_truth"] is None and sum(block["kinds"].values()) == NUM_LABELS
    assert metrics["held_out"]["student"]["micro"]["f1"] == pytest.approx(
        2 * (y & alarms).sum() / (y.sum() + alarms.sum())
    )


@given(PAIRS, st.sampled_from([0.1, 0.5, 0.75, 1.0]))
def test_thresholds_for_a_target_are_those_of_a_search_over_all(rows, target):
    y, p = np.array([a for a, _ in rows]), np.array([b / 6 for _, b in rows])
    every = sorted(set(p.tolist()), reverse=True)
    sensitivity = {t: (y & (p >= t)).sum() / y.sum() for t in every}
    precision = {t: (y & (p >= t)).sum() / (p >= t).sum() for t in every}
    assert sensitivity_threshold(y, p, target) == max(t for t in every if sensitivity[t] >= target)
    reached = [t for t in every if precision[t] >= target]
    best = max(reached, key=lambda t: (sensitivity[t], t)) if reached else None
    assert precision_threshold(y, p, target) == best


def test_a_target_that_cannot_be_reached_keeps_the_default_with_the_reason():
    labels, p = np.zeros((4, NUM_LABELS), bool), np.tile(np.array([0.9, 0.8, 0.2, 0.1])[:, None], NUM_LABELS)
    labels[2] = True
    found = choose_thresholds(rows_of(labels), p, EvaluationConfig(threshold_for="precision", threshold_target=0.5))
    assert set(found.values) == {0.5} and set(found.reasons.values()) == {
        "no threshold reaches precision 0.5 on tuning"
    }


@pytest.mark.parametrize(
    "wrong",
    [
        ["threshold_target=0.5"],
        ["threshold_for=precision"],
        ["threshold_for=sensitivity", "threshold_target=0"],
        ["threshold_for=accuracy"],
    ],
)
def test_a_threshold_wish_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match="threshold"):
        load(None, [f"evaluation.{key}" for key in wrong])


def test_recalibration_is_scikit_learns_and_undefined_without_an_optimum():
    z, y, _ = made()
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, :1], y[:, 0])
    assert recalibration(y[:, 0], sigmoid(z[:, 0])) == pytest.approx(
        (reference.coef_[0, 0], reference.intercept_[0]), abs=1e-4
    )
    p = np.array([0.1, 0.2, 0.3])
    for labels, values in (([0, 0, 0], p), ([0, 0, 1], p), ([1, 0, 0], p), ([0, 1, 0], p * 0 + 0.3)):
        assert recalibration(np.array(labels, bool), values) == (None, None)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=60), st.randoms())
def test_the_calibration_error_depends_on_no_order_and_of_a_constant_is_its_bias(rows, random):
    y, p = np.array([a for a, _ in rows]), np.array([b / 4 for _, b in rows])
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = expected_calibration_error(np.array([a for a, _ in shuffled]), np.array([b / 4 for _, b in shuffled]))
    assert expected_calibration_error(y, p) == pytest.approx(again)
    assert expected_calibration_error(y, np.full(len(y), 0.3)) == pytest.approx(abs(0.3 - y.mean()))


@given(st.floats(-16, 10, width=32))
def test_a_float32_probability_gives_its_logit_back(z):
    p = np.float32(sigmoid(np.array(z)))
    assert log_odds(p) == pytest.approx(z, abs=1e-6 + 6e-8 / (1 - float(p)))
    assert np.isfinite(log_odds(np.array([0, 1], np.float32))).all()


def test_the_cohort_of_the_tests_gives_a_calibration_that_can_be_read_back(tmp_path):
    cohort = write_all(tmp_path, make_visits())
    found = calibrate_student(cohort, F1, 0)
    found.save(str(tmp_path / "calibration.json"), cohort.task.names, "m")
    assert Calibration.load(str(tmp_path / "calibration.json"), cohort.task.names, "m").maps == found.maps
