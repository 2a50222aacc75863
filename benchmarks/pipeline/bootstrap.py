"""What the intervals cost: 1,000 patient-cluster draws of 100,000 visits x 25 labels, against scikit-learn.

Both give AUROC and AUPRC of every label on the same draws and must agree; the project's pass also gives the pooled
labels, Brier and F1 figures. The peer takes a second per draw: a few are timed and the rest is extrapolated.

    OMP_NUM_THREADS=1 python -m benchmarks.pipeline.bootstrap     # a few minutes; writes results/bootstrap.json
"""

import sys
from statistics import median
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.report import Report, Seconds, in_turn, options, timed, versions
from ckd.evaluation.bootstrap import Draws, resample
from ckd.visits.labels import NUM_LABELS

LIMIT_S = 300.0


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, "bootstrap.json")
    parser.add_argument("--visits", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--peer-resamples", type=int, default=3, help="draws of scikit-learn in each run")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each way, in turn")
    arguments = parser.parse_args(argv)
    report = Report("pipeline.bootstrap", argv, arguments.out)
    report["versions"] |= versions("numpy", "scipy", "scikit-learn")
    members, labels, p = cohort(arguments.visits)
    draws = Draws(members, int(members.max()) + 1, arguments.resamples, 0, True)
    few = Draws(members, draws.groups, arguments.peer_resamples, 0, True)
    report |= {"visits": arguments.visits, "patients": draws.groups, "labels": NUM_LABELS}
    report |= {"resamples": draws.resamples, "peer_resamples": few.resamples}
    report["positive_share"] = {"least": float(labels.mean(0).min()), "most": float(labels.mean(0).max())}
    report["largest_difference"] = float(np.abs(ours(few, labels, p)[:, :NUM_LABELS, :2] - peer(few, labels, p)).max())
    if report["largest_difference"] > 1e-10:
        print(f"the two ways disagree by {report['largest_difference']}", file=sys.stderr)
        return 1
    ways = {"project": lambda: ours(draws, labels, p), "scikit-learn": lambda: peer(few, labels, p)}
    seconds: dict[str, list[Seconds]] = {name: [] for name in ways}
    for run in range(arguments.runs):
        for name in in_turn(ways, run):
            seconds[name].append(timed(ways[name]))
    report |= figures(seconds, draws.resamples / few.resamples)
    report.show(*ways, "times_faster_per_cpu_second", "target")
    return report.finish()


def cohort(visits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients of about three visits; labels of 3 to 45 % positives; float32 scores, as models give them."""
    rng = np.random.default_rng(0)
    members = np.sort(np.unique(rng.integers(visits // 3, size=visits), return_inverse=True)[1])
    labels = rng.random((visits, NUM_LABELS)) < np.linspace(0.03, 0.45, NUM_LABELS)
    p = 1 / (1 + np.exp(-(labels + 1.5 * rng.normal(size=labels.shape) - 1)))
    return members, labels, p.astype(np.float32)


def ours(draws: Draws, labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Every figure of every draw [resamples, 26, 7]; AUROC and AUPRC come first."""
    return resample(draws, labels, p, np.ones_like(labels), p >= 0.5, np.full(NUM_LABELS, 0.5), range(NUM_LABELS))


def peer(draws: Draws, labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """AUROC and AUPRC [resamples, 25, 2] by scikit-learn, a draw and a label at a time."""
    weights = draws.counts(0, draws.resamples)[draws.members]
    both = (roc_auc_score, average_precision_score)
    return np.array(
        [[[f(labels[:, j], p[:, j], sample_weight=w) for f in both] for j in range(NUM_LABELS)] for w in weights.T]
    )


def figures(seconds: dict[str, list[Seconds]], more: float) -> dict[str, Any]:
    """Medians of the runs; the peer's times `more` for all draws."""
    found: dict[str, Any] = {}
    for name, runs in seconds.items():
        clocks = {"wall": [s.wall for s in runs], "cpu": [s.cpu for s in runs]}
        found[name] = {f"runs_{clock}_s": values for clock, values in clocks.items()}
        found[name] |= {f"{clock}_s": median(values) for clock, values in clocks.items()}
    project, other = found["project"], found["scikit-learn"]
    other |= {f"extrapolated_{clock}_s": other[f"{clock}_s"] * more for clock in ("wall", "cpu")}
    measured = project["wall_s"]
    return {
        **found,
        "times_faster_per_cpu_second": other["extrapolated_cpu_s"] / project["cpu_s"],
        "target": {"wall_s_at_most": LIMIT_S, "measured": measured, "met": measured <= LIMIT_S},
    }


if __name__ == "__main__":
    raise SystemExit(main())
