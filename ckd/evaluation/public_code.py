"""The public research code's four test figures, from 0/1 predictions at probability > 0.5.

They are for comparison with published numbers only: AUC and AUPR of 0/1 predictions understate a ranking.
"""

import numpy as np

from ckd.evaluation.metrics import Floats, auprc, auroc, f1
from ckd.evaluation.scores import Flags

CUT = 0.5


def public_code_metrics(labels: Flags, p: Floats, known: Flags) -> dict[str, float | None]:
    """F1 (macro over the labels, empty ones count 0), accuracy (share of equal cells), AUPR and AUC (cells pooled).

    Inputs are [n, L]; only `known` cells count.
    """
    predicted = p > CUT
    y, pooled = labels[known], predicted[known].astype(np.float64)
    columns = [(labels[where, j], predicted[where, j]) for j, where in enumerate(known.T)]
    return {
        "f1": float(np.mean([f1(*column) or 0.0 for column in columns])),
        "accuracy": float((y == pooled).mean()),
        "aupr": auprc(y, pooled),
        "auc": auroc(y, pooled),
    }
