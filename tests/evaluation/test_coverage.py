"""Do the 95 % intervals hold the truth in 95 % of cohorts? Seeds 0 to 199, fixed before the first run."""

import numpy as np
import pytest
from scipy.special import expit, ndtr

from ckd.evaluation.bootstrap import Draws, interval, macro, resample

COHORTS, PATIENTS, RESAMPLES, LABELS = 200, 80, 500, 4
# How far a positive's score is above a negative's.
GAIN = {"student": np.array([1.2, 0.9, 1.5, 0.6]), "teacher": np.array([1.4, 1.2, 1.5, 0.9])}
# Standard deviations of a score's parts: the patient's, what both models know of a visit, noise.
PATIENT, SHARED, OWN = 1.0, 0.5, 0.7


def cohort(seed):
    """1 to 5 visits per patient: patients differ in how often they are positive, and in the height of their scores."""
    rng = np.random.default_rng(seed)
    members = np.repeat(np.arange(PATIENTS), rng.integers(1, 6, PATIENTS))
    n = len(members)
    often = rng.normal(-0.8, 1, (PATIENTS, LABELS))[members]
    labels = rng.random((n, LABELS)) < expit(often)
    common = PATIENT * rng.normal(size=(PATIENTS, LABELS))[members] + SHARED * rng.normal(size=(n, LABELS))
    scores = {}
    for name, gain in GAIN.items():
        scores[name] = expit(gain * labels[:, :LABELS] + common + OWN * rng.normal(size=(n, LABELS)))
    return members, labels, scores


def truth(name):
    """Macro AUROC by the normal distribution.

    A score given the label is normal, and the patient's part does not depend on the label.
    """
    return float(ndtr(GAIN[name] / np.sqrt(2 * (PATIENT**2 + SHARED**2 + OWN**2))).mean())


def test_the_intervals_hold_the_truth_in_about_95_of_100_cohorts():
    held = {"student": 0, "teacher": 0, "difference": 0, "student, visits drawn instead of patients": 0}
    gap = truth("student") - truth("teacher")
    for seed in range(COHORTS):
        members, labels, scores = cohort(seed)
        cells = np.ones_like(labels)
        half = np.full(LABELS, 0.5)

        def macro_auroc(name, groups, seed=seed, labels=labels, scores=scores, cells=cells, half=half):
            draws = Draws(groups, int(groups.max()) + 1, RESAMPLES, seed, True)
            alarms = scores[name] >= 0.5
            drawn = resample(draws, labels, scores[name], cells, alarms, half, range(LABELS))
            return macro(drawn, range(LABELS))[:, 0]

        drawn = {name: macro_auroc(name, members) for name in GAIN}
        values = {**drawn, "difference": drawn["student"] - drawn["teacher"]}
        values["student, visits drawn instead of patients"] = macro_auroc("student", np.arange(len(members)))
        for name, value in values.items():
            low, high = interval(value)
            held[name] += low <= (gap if name == "difference" else truth(name[:7])) <= high
    shares = {name: count / COHORTS for name, count in held.items()}
    for name in ("student", "teacher", "difference"):
        assert 0.92 <= shares[name] <= 0.97, shares
    assert shares["student, visits drawn instead of patients"] < 0.92  # the patients matter here: the test can fail


def test_the_truth_is_what_a_large_sample_shows():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    y = rng.random(200_000) < 0.3
    score = GAIN["student"][0] * y + np.sqrt(PATIENT**2 + SHARED**2 + OWN**2) * rng.normal(size=len(y))
    assert roc_auc_score(y, score) == pytest.approx(
        ndtr(GAIN["student"][0] / np.sqrt(2 * (PATIENT**2 + SHARED**2 + OWN**2))), abs=0.004
    )
