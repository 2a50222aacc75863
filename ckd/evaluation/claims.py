"""What a reader may conclude from a run: headline_facts(), INTENDED_USE, LIMITS.

Report and model card print these sentences, so they say the same. Every figure is that of metrics.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIN_PATIENTS = 100  # held_out patients below which the headline is no claim about performance
# A label with fewer positive visits is marked: Collins, Ogundimu, Altman, Statistics in Medicine 35 (2016) 214-226.
MIN_EVENTS = 100

CONDITION = "given that the patient returns"
INTENDED_USE = (
    "Research on next-visit prediction: for a patient who will be admitted again, how likely is each of 25 groups of "
    "diagnoses (CCS categories) to be coded at that next visit, from the codes and drugs of the present one.",
    "Comparing models, data and training recipes on the same held-out patients.",
)
NOT_INTENDED = (
    "Decisions about the care of a single patient. It is no medical device and no clinician has tested it in use.",
    "Choosing or stopping a treatment. What the text says of drugs is an association, confounded by why a drug was "
    "given; it is not efficacy.",
    "Another hospital, code system, language or time, before it was validated there.",
)
LIMITS = (
    f"Every figure reads: {CONDITION}. Who never comes back, or dies, has no next visit and is not counted.",
    "A label means that a code was billed, not that the disease is there; a disease without a code counts as absent.",
    "Codes are complete some days after discharge; a prediction that reads them cannot be made at the bedside.",
    "A chronic disease that is coded again is easy to predict. Read new onset beside the overall figure.",
    "The language model's own pre-training may have seen public data; that cannot be ruled out from here.",
)


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
        ("macro AUROC, new onset", onset),
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
