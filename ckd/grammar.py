"""The public input sentence: diseases, medication, operations, treatment clause. Writes it and reads its treatment clause back; what goes
into the clause is decided where cohorts are built."""

import re
from collections.abc import Mapping, Sequence

from ckd.labels import DISEASES, NO_DISEASE, encode

DISEASE = "The patient-acquired disease is "
MEDICATION = "The patient had used the following medication: "
OPERATION = "The surgical operation performed by the patient: "
TREATMENT = "The medications that maybe have therapeutic effect on "

_TREATED = re.compile(re.escape(TREATMENT) + "(" + "|".join(map(re.escape, DISEASES)) + ") (?:are|is) ")
_NO_CLAUSE = re.compile(re.escape(OPERATION.strip()) + r".*\.\s*" + NO_DISEASE + r"\s*\.?\s*\Z", re.DOTALL)


def render_input(diseases: Sequence[str], drugs: Sequence[str], operations: Sequence[str], treatments: Mapping[str, Sequence[str]]) -> str:
    """One visit's `input`. `treatments` maps a disease to the drugs associated with it; whatever is empty reads "None"."""
    clause = "; ".join(f"{TREATMENT}{disease} are {', '.join(names)}" for disease, names in treatments.items())
    parts = [DISEASE + _listed(diseases), MEDICATION + _listed(drugs), OPERATION + _listed(operations), clause or NO_DISEASE]
    return " ".join(f"{part}." for part in parts)


def diseases_in_treatment_clause(text: str) -> tuple[bool, ...] | None:
    """The labels that an `input`'s treatment clause names, as 25 booleans; other diseases in it are passed over.

    A clause "None." names none. Returns None for a text that has no such clause, where the present labels are unknown.
    """
    if TREATMENT in text:
        return encode(_TREATED.findall(text))
    return encode(()) if _NO_CLAUSE.search(text) else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or NO_DISEASE
