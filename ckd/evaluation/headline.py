"""Makes the headline: the student against the strongest baseline, which is chosen on tuning."""

from collections.abc import Mapping
from typing import Any

from ckd.evaluation.baselines import Predictions, Result
from ckd.evaluation.bootstrap import Draws
from ckd.evaluation.metrics import MIN_COUNT, macro_auroc, macro_labels
from ckd.evaluation.scores import Rows

METRIC = "macro_auroc"
_FALLBACK = ("persistence", "prevalence")  # in this order, when tuning cannot rank the baselines


def headline(
    student: Mapping[str, Any],
    baselines: Mapping[str, Any],
    fitted: Mapping[str, Result],
    tuning: Rows,
    comparisons: Mapping[str, Any],
    draws: Draws,
    labels: int,
) -> dict[str, Any]:
    """Macro AUROC of the student and of the strongest baseline over `labels` labels, their difference and its interval.

    `student` and `baselines` are blocks of metrics.json. `against_persistence` is the same comparison with persistence
    (None when that is not computable).
    """
    strongest, tuning_auroc, how = strongest_baseline(fitted, tuning)
    against = {
        name: compared(student, baselines[name], comparisons[name], draws, labels)
        for name in _computed(fitted)
        if name in (strongest, "persistence")
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
        "sentence": sentence(strongest, main, labels),
    }


def strongest_baseline(fitted: Mapping[str, Result], tuning: Rows) -> tuple[str, dict[str, float | None], str]:
    """The computable baseline with the largest tuning macro AUROC, all their values, and how it was chosen.

    Labels: those with MIN_COUNT positive and negative tuning visits, else those with both classes.
    Uses no held_out label.
    """
    computed = _computed(fitted)
    enough = macro_labels(tuning.labels, tuning.known)
    chosen = enough or macro_labels(tuning.labels, tuning.known, min_count=1)
    values = {
        name: macro_auroc(tuning.labels, result.tuning, chosen, tuning.known) for name, result in computed.items()
    }
    ranked = {name: value for name, value in values.items() if value is not None}
    if not ranked:
        name = next(name for name in _FALLBACK if name in computed)
        return name, values, "no label has both classes on tuning: taken without a comparison"
    count = MIN_COUNT if enough else 1
    how = f"tuning macro AUROC over {_labels(len(chosen))} with at least {count} positive and negative tuning visits"
    # Of equals the later, richer one: persistence ranks like copy_forward.
    return max(reversed(ranked), key=lambda name: ranked[name]), values, how


def compared(
    student: Mapping[str, Any], baseline: Mapping[str, Any], comparison: Mapping[str, Any], draws: Draws, labels: int
) -> dict[str, Any]:
    """Both macro AUROC values, student minus baseline, the paired interval, and why there is none or what it hides."""
    entry = comparison["macro"]["auroc"]
    reason = draws.reason or (None if labels else "no label has enough held_out visits")
    if entry["interval"] is None and reason is None:
        reason = "too many draws left every label with one class"
    return {
        "student": student["macro"]["auroc"],
        "baseline": baseline["macro"]["auroc"],
        **entry,
        "interval_reason": reason,
        "interval_note": draws.note,
        "groups": draws.groups,
        "resamples": 0 if draws.reason else draws.resamples,
    }


def sentence(name: str, compared: Mapping[str, Any], labels: int) -> str:
    """The comparison in words; says so when the student loses, or when the interval does not decide."""
    difference, interval = compared["difference"], compared["interval"]
    if difference is None:
        return f"No headline: no label has {MIN_COUNT} positive and {MIN_COUNT} negative held_out visits."
    bounds = (
        f"95 % interval {interval[0]:+.3f} to {interval[1]:+.3f}"
        if interval
        else f"no interval: {compared['interval_reason']}"
    )
    if interval and compared["interval_note"]:
        bounds += f", {compared['interval_note']}"
    if difference < 0:
        verb = "loses to" if interval and interval[1] < 0 else "is below"
    elif difference > 0:
        verb = "beats" if interval and interval[0] > 0 else "is above"
    else:
        verb = "equals"
    clear = interval and (interval[0] > 0 or interval[1] < 0)
    doubt = "" if clear else "; this sample does not decide between them"
    return (
        f"The student (macro AUROC {compared['student']:.3f}, {_labels(labels)}) {verb} {name} "
        f"({compared['baseline']:.3f}), the strongest baseline on tuning: {difference:+.3f} ({bounds}){doubt}."
    )


def _labels(count: int) -> str:
    return f"{count} label" if count == 1 else f"{count} labels"


def _computed(fitted: Mapping[str, Result]) -> dict[str, Predictions]:
    return {name: result for name, result in fitted.items() if isinstance(result, Predictions)}
