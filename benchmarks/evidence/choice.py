"""What follows from the figures: which option the criterion takes, and the interval of the one confirmation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evidence.setup import BASE, Arm, Figures, Trial
from ckd.evaluation.bootstrap import LEVEL, Draws
from ckd.evaluation.ranking import Ranking

LOWER_IS_BETTER = {"log_loss"}


@dataclass(frozen=True)
class Compared:
    """An arm against its partner, on tuning: means over the seeds, and the paired differences; more is better."""

    arm: Arm
    seeds: list[int]
    mean: dict[str, float]
    difference: dict[str, float]
    deviation: dict[str, float]  # of the paired differences over the seeds (n - 1)


def compare(trial: Trial, found: Figures) -> list[Compared]:
    """Every arm that has all seeds of the selection, as far as its partner has them too, in the order of the file."""
    arms, seeds = trial.setup.arms, trial.seeds
    whole = {arm.name for arm in arms if all((arm.name, seed) in found for seed in seeds)}
    return [_compared(arm, seeds, found) for arm in arms if {arm.name, arm.against} <= whole]


def _compared(arm: Arm, seeds: list[int], found: Figures) -> Compared:
    names = found[arm.name, seeds[0]]["tuning"]

    def of(name: str) -> dict[str, np.ndarray]:
        return {m: np.array([found[name, seed]["tuning"][m] for seed in seeds]) for m in names}

    ours, theirs = of(arm.name), of(arm.against)
    gaps = {m: (ours[m] - theirs[m]) * (-1 if m in LOWER_IS_BETTER else 1) for m in names}
    return Compared(
        arm,
        seeds,
        {m: float(values.mean()) for m, values in ours.items()},
        {m: float(values.mean()) for m, values in gaps.items()},
        {m: float(values.std(ddof=1)) if len(seeds) > 1 else 0.0 for m, values in gaps.items()},
    )


def choose(criterion: str, compared: Sequence[Compared]) -> dict[str, Any]:
    """The option with the largest mean paired gain over the base by the criterion; the base itself when none gains.

    `candidate` is what the confirmation compares with the base: the winner, or the best option when the base wins.
    """
    options = [c for c in compared if c.arm.kind == "option" and c.arm.against == BASE and c.arm.name != BASE]
    best = max(options, key=lambda c: c.difference[criterion])
    gain = best.difference[criterion]
    winner = best.arm.name if gain > 0 else BASE
    return {"criterion": criterion, "winner": winner, "candidate": best.arm.name, "gain_on_tuning": gain}


def intervals(
    labels: np.ndarray, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], draws: Draws, chosen: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Macro AUROC and AUPRC of `ours` minus `theirs` (one [n, 25] per training seed, in pairs), with intervals.

    A hierarchical bootstrap: each resample draws training seeds with replacement and, the same for all of them,
    patients with replacement. The statistic is the mean over the drawn seeds of the paired macro difference under the
    drawn patients. Percentile interval (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13).
    labels [n, 25]. A label that a draw leaves with one class is left out of that draw.
    """
    drawn, each = draws.counts(0, draws.resamples), np.ones((draws.groups, 1), np.float32)
    gaps_SB2 = np.stack([gap(labels, a, b, draws, drawn, chosen) for a, b in zip(ours, theirs, strict=True)])
    gaps_S2 = np.stack([gap(labels, a, b, draws, each, chosen)[0] for a, b in zip(ours, theirs, strict=True)])
    picked_SB = np.random.default_rng([draws.seed, 1]).integers(len(ours), size=(len(ours), draws.resamples))
    values_B2 = np.take_along_axis(gaps_SB2, picked_SB[:, :, None], axis=0).mean(0)
    low, high = np.quantile(values_B2, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        name: {
            "difference": float(gaps_S2[:, k].mean()),
            "interval": [float(low[k]), float(high[k])],
            "by_seed": gaps_S2[:, k].tolist(),
        }
        for k, name in enumerate(("macro_auroc", "macro_auprc"))
    }


def gap(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, draws: Draws, counts: np.ndarray, chosen: Sequence[int]
) -> np.ndarray:
    """Macro AUROC and AUPRC of `first` minus `second` [B, 2]; counts [patients, B] are the weights of their rows."""

    def of(p: np.ndarray, j: int) -> np.ndarray:
        return np.stack(Ranking(labels[:, j], p[:, j], draws.members, draws.groups).figures(counts), 1)

    return np.nanmean(np.stack([of(first, j) - of(second, j) for j in chosen]), 0)
