"""Writes the public input sentence (diseases, medication, operations, treatment clause) and reads its clause back."""

import re
from collections.abc import Mapping, Sequence

from ckd.visits.labels import CCS25, DISEASES, NO_DISEASE, encode
from ckd.visits.task import Task

DISEASE = "The patient-acquired disease is "
MEDICATION = "The patient had used the following medication: "
OPERATION = "The surgical operation performed by the patient: "
TREATMENT = "The medications that maybe have therapeutic effect on "
# The three lists and the clause, each NO_DISEASE where empty.
INPUT = f"{DISEASE}{{}}. {MEDICATION}{{}}. {OPERATION}{{}}. {{}}."
BETWEEN_NAMES = ", "
BETWEEN_TREATMENTS = "; "

_TREATED = re.compile(re.escape(TREATMENT) + "(" + "|".join(map(re.escape, DISEASES)) + ") (?:are|is) ")


def render_input(
    diseases: Sequence[str], drugs: Sequence[str], operations: Sequence[str], treatments: Mapping[str, Sequence[str]]
) -> str:
    """One visit's `input`. `treatments` maps a disease to the drugs associated with it; what is empty reads "None"."""
    clause = treatment_clause(treatments) or NO_DISEASE
    return INPUT.format(_listed(diseases), _listed(drugs), _listed(operations), clause)


def treatment_clause(treatments: Mapping[str, Sequence[str]]) -> str:
    """The treatment clause of these diseases and drugs, without the final point; "" for no disease."""
    return BETWEEN_TREATMENTS.join(
        f"{TREATMENT}{disease} are {BETWEEN_NAMES.join(names)}" for disease, names in treatments.items()
    )


def diseases_in_treatment_clause(text: str) -> tuple[bool, ...] | None:
    """The labels that an `input`'s treatment clause names, as 25 booleans; other diseases in it do not count.

    The clause "None." names none. None for a text without such a clause: its present labels are unknown.
    """
    if TREATMENT in text:
        return encode(_TREATED.findall(text))
    return encode(()) if _has_no_clause(text) else None


def names_the_labels(task: Task | None) -> bool:
    """Whether the clause names a task's labels: it names the 25 of ccs25, so that a text is the same for every task."""
    return task is not None and task.labels == CCS25.labels


def _has_no_clause(text: str) -> bool:
    """Whether a text ends in "Operations …. None." by hand: a regular expression takes the square of its blanks."""
    before = text.rstrip().removesuffix(".").rstrip()
    if not before.endswith(NO_DISEASE):
        return False
    before = before.removesuffix(NO_DISEASE).rstrip()
    return before.endswith(".") and OPERATION.strip() in before


def _listed(names: Sequence[str]) -> str:
    return BETWEEN_NAMES.join(names) or NO_DISEASE
