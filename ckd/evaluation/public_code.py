"""The public research code's four test figures, from 0/1 predictions at probability > 0.5.

They are for comparison with published numbers only: AUC and AUPR of 0/1 predictions understate a ranking.
"""

import numpy as np

from ckd.evaluation.metrics import Floats, auprc, auroc, f1
from ckd.evaluation.scores import Flags

CUT = 0.5


def public_code_metrics(labels: Flags, p: Floats) -> dict[str, float | None]:
    """F1 (macro over 25 labels, empty ones count 0), accuracy (share of equal cells), AUPR and AUC (cells pooled).

    Inputs are [n, 25].
    """
    predicted = p > CUT
    pooled = predicted.ravel().astype(np.float64)
    return {
        "f1": float(np.mean([f1(labels[:, j], predicted[:, j]) or 0.0 for j in range(labels.shape[1])])),
        "accuracy": float((labels == predicted).mean()),
        "aupr": auprc(labels.ravel(), pooled),
        "auc": auroc(labels.ravel(), pooled),
    }
