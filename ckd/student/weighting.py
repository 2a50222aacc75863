"""Class weighting: how much more a positive counts than a negative in the loss of the true labels, from the training split alone."""

import numpy as np

from ckd.visits.cohort import Cohort
from ckd.visits.columns import matrix
from ckd.visits.labels import NUM_LABELS

MOST = 20.0  # of any weight: a label rarer than 1 in 21 would let a handful of visits decide the gradient


def positive_weights(cohort: Cohort) -> np.ndarray:
    """Weight [25], float32, of a positive of each label beside 1 for a negative: min(negatives / positives, MOST); 1 without positives.

    Both classes of a label then have the same total weight (King & Zeng 2001, "Logistic Regression in Rare Events Data", section 4.2, weighting with
    a population of equal halves). Counted over the labelled train visits, one shard in memory at a time; whole numbers, so the same on every rank.
    """
    visits, positives_L = 0, np.zeros(NUM_LABELS, np.int64)
    for shard in cohort.select("train"):
        positives_L += matrix(cohort.read(shard, ["labels"])["labels"], np.int64).sum(0)
        visits += shard.rows
    ratio_L = (visits - positives_L) / np.maximum(positives_L, 1)
    return np.where(positives_L > 0, np.minimum(ratio_L, MOST), 1).astype(np.float32)
