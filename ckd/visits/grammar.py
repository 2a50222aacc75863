"""Writes the public input sentence (diseases, medication, operations, treatment clause) and reads its clause back.

Earlier visits stand behind it, the latest first: whatever cuts the end of a long text cuts the oldest visit first, and
the current one only when no earlier one is left.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckd.visits.labels import CCS25, DISEASES, NO_DISEASE, encode
from ckd.visits.task import Task

DISEASE = "The patient-acquired disease is "
MEDICATION = "The patient had used the following medication: "
OPERATION = "The surgical operation performed by the patient: "
TREATMENT = "The medications that maybe have therapeutic effect on "
# The three lists, each NO_DISEASE where empty.
VISIT = f"{DISEASE}{{}}. {MEDICATION}{{}}. {OPERATION}{{}}."
# The three lists and the clause.
INPUT = f"{VISIT} {{}}."
# What follows for each earlier visit: its days and its sentence.
EARLIER = " {} days before: {}"
BETWEEN_NAMES = ", "
BETWEEN_TREATMENTS = "; "

_TREATED = re.compile(re.escape(TREATMENT) + "(" + "|".join(map(re.escape, DISEASES)) + ") (?:are|is) ")
_BEFORE = EARLIER.format("", "").strip()  # looked for first: a search costs ten times as much
_FIRST_EARLIER = re.compile(EARLIER.format("[0-9]+", re.escape(DISEASE)))


class EarlierVisit(NamedTuple):
    """A visit before the current one: the days from its end to the current one's start, and its lists."""

    days: int
    diseases: Sequence[str]
    drugs: Sequence[str]
    operations: Sequence[str]


def render_input(
    diseases: Sequence[str],
    drugs: Sequence[str],
    operations: Sequence[str],
    treatments: Mapping[str, Sequence[str]],
    earlier: Sequence[EarlierVisit] = (),
) -> str:
    """One visit's `input`. `treatments` maps a disease to the drugs associated with it; what is empty reads "None".

    `earlier`: the latest first; without any the text is the public one.
    """
    clause = treatment_clause(treatments) or NO_DISEASE
    current = INPUT.format(_listed(diseases), _listed(drugs), _listed(operations), clause)
    return current + "".join(EARLIER.format(days, VISIT.format(*map(_listed, lists))) for days, *lists in earlier)


def treatment_clause(treatments: Mapping[str, Sequence[str]]) -> str:
    """The treatment clause of these diseases and drugs, without the final point; "" for no disease."""
    return BETWEEN_TREATMENTS.join(
        f"{TREATMENT}{disease} are {BETWEEN_NAMES.join(names)}" for disease, names in treatments.items()
    )


def diseases_in_treatment_clause(text: str) -> tuple[bool, ...] | None:
    """The labels that an `input`'s treatment clause names, as 25 booleans; other diseases in it do not count.

    Earlier visits have no clause: they are not looked at.
    The clause "None." names none. None for a text without such a clause: its present labels are unknown.
    """
    text = _current_visit(text)
    if TREATMENT in text:
        return encode(_TREATED.findall(text))
    return encode(()) if _has_no_clause(text) else None


def names_the_labels(task: Task | None) -> bool:
    """Whether the clause names a task's labels: it names the 25 of ccs25, so that a text is the same for every task."""
    return task is not None and task.labels == CCS25.labels


def _current_visit(text: str) -> str:
    """A text without its earlier visits."""
    first = _FIRST_EARLIER.search(text) if _BEFORE in text else None
    return text[: first.start()] if first else text


def _has_no_clause(text: str) -> bool:
    """Whether a text ends in "Operations …. None." by hand: a regular expression takes the square of its blanks."""
    before = text.rstrip().removesuffix(".").rstrip()
    if not before.endswith(NO_DISEASE):
        return False
    before = before.removesuffix(NO_DISEASE).rstrip()
    return before.endswith(".") and OPERATION.strip() in before


def _listed(names: Sequence[str]) -> str:
    return BETWEEN_NAMES.join(names) or NO_DISEASE
