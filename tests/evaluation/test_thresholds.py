from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.evaluation.thresholds import DEFAULT, best_threshold, choose_thresholds
from ckd.visits.labels import DISEASES, NUM_LABELS
from tests.evaluation.evaluation_cohort import rows_of


def exact_f1(y, p, threshold):
    alarm = p >= threshold
    return Fraction(2 * int((y & alarm).sum()), int(y.sum()) + int(alarm.sum()))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40).filter(
        lambda rows: any(y for y, _ in rows)
    )
)
@example([(True, 0), (False, 0)])
@example([(False, 3), (True, 3), (True, 1)])
def test_no_threshold_has_a_larger_f1_than_the_one_chosen(rows):
    y, p = np.array([a for a, _ in rows]), np.array([b / 6 for _, b in rows], dtype=np.float32)
    chosen = best_threshold(y, p)
    every = [0.0, *np.unique(p), 1.1]
    best = max(exact_f1(y, p, t) for t in every)
    assert exact_f1(y, p, chosen) == best
    assert chosen == max(t for t in np.unique(p) if exact_f1(y, p, t) == best)  # of equals the highest


def test_a_label_with_one_class_keeps_the_default_and_says_why():
    labels = np.zeros((6, NUM_LABELS), dtype=bool)
    labels[:, 1] = True
    labels[0, 2] = True
    p = np.tile(np.linspace(0.9, 0.1, 6)[:, None], (1, NUM_LABELS))
    thresholds = choose_thresholds(rows_of(labels), p)
    assert thresholds.values[0] == thresholds.values[1] == DEFAULT
    assert thresholds.values[2] == 0.9
    assert thresholds.reasons[DISEASES[0]] == "no positive tuning visit"
    assert thresholds.reasons[DISEASES[1]] == "no negative tuning visit"
    assert DISEASES[2] not in thresholds.reasons


def test_an_empty_tuning_split_keeps_every_default():
    thresholds = choose_thresholds(rows_of(np.zeros((0, NUM_LABELS), dtype=bool)), np.zeros((0, NUM_LABELS)))
    assert (thresholds.values == DEFAULT).all()
    assert set(thresholds.reasons.values()) == {"no tuning visits"}
