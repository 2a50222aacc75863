import numpy as np
import pytest
from sklearn import metrics as sk

from ckd.evaluation.public_code import public_code_metrics
from ckd.visits.labels import NUM_LABELS


def test_the_public_figures_are_those_of_0_and_1_predictions():
    rng = np.random.default_rng(0)
    labels = rng.random((80, NUM_LABELS)) < 0.2
    labels[:, 3] = False
    p = np.clip(rng.random(labels.shape) * 0.7 + 0.3 * labels, 0, 1).astype(np.float32)
    p[0, 0] = 0.5  # not above 0.5: no alarm
    p[:, 3] = 0.1  # neither positives nor alarms: counts 0 in the macro F1
    predicted = (p > 0.5).astype(int)
    truth = labels.astype(int)
    singles = [sk.f1_score(truth[:, j], predicted[:, j], zero_division=0) for j in range(NUM_LABELS)]
    found = public_code_metrics(labels, p, np.ones_like(labels))
    assert found["f1"] == pytest.approx(np.mean(singles)) and singles[3] == 0
    assert found["accuracy"] == pytest.approx(np.mean(truth == predicted))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(truth.flatten(), predicted.flatten()))
    assert found["aupr"] == pytest.approx(sk.average_precision_score(truth.flatten(), predicted.flatten()))


def test_without_a_positive_the_areas_are_undefined():
    found = public_code_metrics(
        np.zeros((3, NUM_LABELS), dtype=bool), np.full((3, NUM_LABELS), 0.2), np.full((3, NUM_LABELS), True)
    )
    assert found == {"f1": 0, "accuracy": 1, "aupr": None, "auc": None}
