"""The words of report and model card: what is predicted, for whom, what it is for, and what limits every figure.

They follow from what a task's labels mean. Those of ccs25, the 25 diseases at the next visit, are the usual ones.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckd.evaluation.small_cells import part_text
from ckd.visits.task import Label, Task

NEXT_VISIT, WITHIN, GIVEN = "codes at the next visit", "codes within a time", "given"
READMISSION, DEATH = "readmission within a time", "death within a time"
RETURNS = "given that the patient returns"
NOT_INTENDED = (
    "Decisions about the care of a single patient. It is no medical device and no clinician has tested it in use.",
    "Choosing or stopping a treatment. What the text says of drugs is an association, confounded by why a drug was "
    "given; it is not efficacy.",
    "Another hospital, code system, language or time, before it was validated there.",
)
_COMPARING = "Comparing models, data and training recipes on the same held-out patients."
_DISEASE = re.compile(r"\b([Dd])isease(s?)\b")


@dataclass(frozen=True)
class Wording:
    """The words of one task."""

    title: str  # of the model card
    question: str  # the report's title
    condition: str  # Every figure reads: …
    intended: tuple[str, ...]
    limits: tuple[str, ...]
    usual: bool  # the labels are the 25 diseases

    def said(self, text: str) -> str:
        """A sentence on diseases at the next visit as one on labels, where these may be anything, and at its time."""
        if self.usual:
            return text
        time = text if self.condition == RETURNS else text.replace("at the next visit", "later")
        return _DISEASE.sub(lambda found: f"{'lL'[found[1] == 'D']}abel{found[2]}", time)


def wording(metrics: Mapping[str, Any]) -> Wording:
    """The words of the task of a metrics.json."""
    task = metrics.get("task")
    return _USUAL if task is None else _of(task["name"], task["labels"], set(task["meanings"]))


def meanings(task: Task) -> list[str]:
    """What the labels of a task mean, each kind once. A union without codes means what the labels above it do."""
    return sorted({_meaning(label) for label in task.labels if not label.any_of or _coded(label)})


def _coded(label: Label) -> bool:
    return bool(label.ccs or label.icd9 or label.icd10 or label.codes)


def known_on(metrics: Mapping[str, Any]) -> str:
    """On how many held_out visits the labels of the macro average are known, where that is not all; else nothing."""
    counts, chosen = metrics["counts"], metrics["labels_in_macro"]
    if "known" not in counts or not chosen:
        return ""
    least, most = (part_text(pick(row["n"] for row in chosen), counts["held_out"]["visits"]) for pick in (min, max))
    return f", each label known on {least} of them" if least == most else f", each label known on {least} to {most}"


def _meaning(label: Label) -> str:
    if label.given:
        return GIVEN
    if label.readmission_days or label.death_days:
        return READMISSION if label.readmission_days else DEATH
    return WITHIN if label.within_days else NEXT_VISIT


def _of(name: str, count: int, kinds: set[str]) -> Wording:
    each = "the label" if count == 1 else f"each of {count} labels"
    only_next = kinds == {NEXT_VISIT}
    condition = RETURNS if only_next else "where the label is known"
    intended = (
        f"Research on the outcomes of a visit: how likely is {each} of the task '{name}' ({'; '.join(sorted(kinds))}), "
        "from the codes and drugs of the present visit.",
        _COMPARING,
    )
    question = "at the next visit" if only_next else "after this visit"
    return Wording(
        title=f"Outcomes after a visit: {name}",
        question=f"{'Will' if count == 1 else 'Which of'} {_labels(name, count)} be true {question}?",
        condition=condition,
        intended=intended,
        limits=tuple(text for text, of in _limits(condition) if not of or of & kinds),
        usual=False,
    )


def _labels(name: str, count: int) -> str:
    return f"the label of {name}" if count == 1 else f"the {count} labels of {name} will"


def _limits(condition: str) -> tuple[tuple[str, set[str]], ...]:
    """Every limit and the kinds of label that it is about (none: any)."""
    known = "has no next visit and is not counted"
    returns = f"Every figure reads: {condition}. Who never comes back, or dies, {known}."
    unknown = f"Every figure reads: {condition}. A visit without a next one, or whose later time was not seen to its "
    return (
        (returns, {NEXT_VISIT}) if condition == RETURNS else (f"{unknown}end, does not count for that label.", set()),
        (
            "A label means that a code was billed, not that the disease is there; a disease without a code counts as "
            "absent.",
            {NEXT_VISIT, WITHIN},
        ),
        ("A given label is what the input's column says; who made it decides what it means.", {GIVEN}),
        ("Readmission is a stay at the same hospital; others are not seen.", {READMISSION}),
        ("A death that the hospital's tables do not record counts as none.", {DEATH}),
        (
            "Codes are complete some days after discharge; a prediction that reads them cannot be made at the bedside.",
            set(),
        ),
        (
            "A chronic disease that is coded again is easy to predict. Read new onset beside the overall figure.",
            {NEXT_VISIT, WITHIN},
        ),
        ("The language model's own pre-training may have seen public data; that cannot be ruled out from here.", set()),
    )


_USUAL = Wording(
    title="Next-visit diseases of a returning patient",
    question="Which diseases will be there at the next visit?",
    condition=RETURNS,
    intended=(
        "Research on next-visit prediction: for a patient who will be admitted again, how likely is each of 25 groups "
        "of diagnoses (CCS categories) to be coded at that next visit, from the codes and drugs of the present one.",
        _COMPARING,
    ),
    limits=tuple(text for text, of in _limits(RETURNS) if not of or NEXT_VISIT in of),
    usual=True,
)
