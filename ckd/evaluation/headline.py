"""The one comparison that a reader takes away: the student against the strongest baseline, chosen on tuning, with a paired interval."""

from collections.abc import Mapping
from typing import Any

from ckd.evaluation.baselines import Predictions, Result
from ckd.evaluation.bootstrap import macro_auroc_difference
from ckd.evaluation.metrics import MIN_COUNT, macro_auroc, macro_labels
from ckd.evaluation.scores import Rows, Scores

METRIC = "macro_auroc"
_FALLBACK = ("persistence", "prevalence")  # in this order, when tuning cannot rank the baselines


def headline(student: Scores, fitted: Mapping[str, Result], tuning: Rows, held_out: Rows, chosen: list[int], seed: int) -> dict[str, Any]:
    """Macro AUROC of the student [n, 25] and of the strongest baseline over the labels `chosen`, their difference and its interval.

    `against_persistence` is the same comparison with persistence (None when that is not computable).
    """
    strongest, tuning_auroc, how = strongest_baseline(fitted, tuning)
    against = {
        name: compare(student, result, held_out, chosen, seed) for name, result in _computed(fitted).items() if name in (strongest, "persistence")
    }
    main = against[strongest]
    return {
        "model": "student",
        "metric": METRIC,
        "strongest_baseline": strongest,
        "strongest_baseline_tuning": tuning_auroc,
        "chosen_by": how,
        **main,
        "against_persistence": against.get("persistence"),
        "sentence": sentence(strongest, main, len(chosen)),
    }


def strongest_baseline(fitted: Mapping[str, Result], tuning: Rows) -> tuple[str, dict[str, float | None], str]:
    """The computable baseline with the largest tuning macro AUROC, all their values, and how it was chosen.

    Labels: those with MIN_COUNT positive and negative tuning visits, else those with both classes. Sees no held_out label.
    """
    computed = _computed(fitted)
    enough = macro_labels(tuning.labels)
    chosen = enough or macro_labels(tuning.labels, min_count=1)
    values = {name: macro_auroc(tuning.labels, result.tuning, chosen) for name, result in computed.items()}
    ranked = {name: value for name, value in values.items() if value is not None}
    if not ranked:
        name = next(name for name in _FALLBACK if name in computed)
        return name, values, "no label has both classes on tuning: taken without a comparison"
    count = MIN_COUNT if enough else 1
    how = f"tuning macro AUROC over {len(chosen)} labels with at least {count} positive and negative tuning visits"
    return max(reversed(ranked), key=lambda name: ranked[name]), values, how  # of equals the later, richer one: persistence ranks like copy_forward


def compare(student: Scores, baseline: Predictions, held_out: Rows, chosen: list[int], seed: int) -> dict[str, Any]:
    """Both macro AUROC values, student minus baseline, and the paired patient-cluster bootstrap interval."""
    first, second = (macro_auroc(held_out.labels, p, chosen) for p in (student, baseline.held_out))
    interval = macro_auroc_difference(held_out.labels, student, baseline.held_out, held_out.groups, chosen, seed=seed)
    return {
        "student": first,
        "baseline": second,
        "difference": None if first is None or second is None else first - second,
        "interval": None if interval.bounds is None else list(interval.bounds),
        "interval_reason": interval.reason,
        "groups": interval.groups,
        "resamples": interval.resamples,
    }


def sentence(name: str, compared: Mapping[str, Any], labels: int) -> str:
    """The comparison in words; says so when the student loses, or when the interval does not decide."""
    difference, interval = compared["difference"], compared["interval"]
    if difference is None:
        return f"No headline: no label has {MIN_COUNT} positive and {MIN_COUNT} negative held_out visits."
    bounds = f"95 % interval {interval[0]:+.3f} to {interval[1]:+.3f}" if interval else f"no interval: {compared['interval_reason']}"
    if difference < 0:
        verb = "loses to" if interval and interval[1] < 0 else "is below"
    elif difference > 0:
        verb = "beats" if interval and interval[0] > 0 else "is above"
    else:
        verb = "equals"
    clear = interval and (interval[0] > 0 or interval[1] < 0)
    doubt = "" if clear else "; this sample does not decide between them"
    return (
        f"The student (macro AUROC {compared['student']:.3f}, {labels} labels) {verb} {name} ({compared['baseline']:.3f}), "
        f"the strongest baseline on tuning: {difference:+.3f} ({bounds}){doubt}."
    )


def _computed(fitted: Mapping[str, Result]) -> dict[str, Predictions]:
    return {name: result for name, result in fitted.items() if isinstance(result, Predictions)}
