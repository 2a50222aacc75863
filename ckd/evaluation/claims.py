"""What a reader may conclude from a run: the top of report and model card, so that both say the same.

Every figure is that of metrics.json; wording.py has the sentences around them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIN_PATIENTS = 100  # held_out patients below which the headline is no claim about performance
# A label with fewer positive visits is marked: Collins, Ogundimu, Altman, Statistics in Medicine 35 (2016) 214-226.
MIN_EVENTS = 100


@dataclass(frozen=True)
class HeadlineFacts:
    """The top of the report and of the model card."""

    sentence: str  # the headline; where the sample is too small, that it shows nothing
    too_small: str | None  # why this sample shows nothing about performance; None when it is large enough
    cautions: tuple[str, ...]  # what else a reader must know before any figure
    rows: tuple[tuple[str, float | None], ...]  # name, value: the student's figures; empty when too_small


def headline_facts(metrics: Mapping[str, Any]) -> HeadlineFacts:
    """The headline of a run from its metrics.json."""
    reason = too_small(metrics)
    cautions = tuple(_cautions(metrics))
    if reason:
        return HeadlineFacts(
            f"This sample shows nothing about performance: {reason}. It shows that the pipeline runs.",
            reason,
            cautions,
            (),
        )
    student = metrics["held_out"]["student"]
    onset = (student["new_onset"]["macro"] or {}).get("auroc")
    rows = (
        ("macro AUROC", student["macro"]["auroc"]),
        *([] if student["new_onset"]["macro"] is None and "task" in metrics else [("macro AUROC, new onset", onset)]),
        ("macro AUPRC", student["macro"]["auprc"]),
        ("Brier skill", student["macro"]["brier_skill"]),
    )
    return HeadlineFacts(metrics["headline"]["sentence"], None, cautions, rows)


def too_small(metrics: Mapping[str, Any]) -> str | None:
    """Why the held_out sample shows nothing about performance; None when it may."""
    patients, labels = metrics["counts"]["held_out"]["groups"], metrics["counts"]["labels_in_macro"]
    unit = "patients" if metrics["counts"]["group"] == "subject" else "different inputs"
    if patients < MIN_PATIENTS:
        return f"fewer than {MIN_PATIENTS} held-out {unit}"
    return None if labels else "no label has enough positive and negative held-out visits"


def _cautions(metrics: Mapping[str, Any]) -> list[str]:
    found = []
    if metrics["ceilings"]:
        found.append(
            "The patients of this run are invented (their true probabilities are known). It shows that the machinery "
            "works, and nothing about real patients."
        )
    if metrics["teacher_saw_held_out"]:
        found.append("The teacher's adapter may have been tuned on held-out visits: the figures may be too good.")
    if metrics["counts"]["group"] != "subject":
        found.append(
            "Visits without a patient id: the same patient may be in training and in held-out, so the figures may be "
            "too good."
        )
    return found
