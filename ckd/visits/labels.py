"""The 25 diseases in their fixed order, which every label column has; their CCS ids; the public `output` sentence."""

from collections.abc import Iterable, Sequence

OUTPUT_PREFIX = "Disease that the patient may acquire: "
NO_DISEASE = "None"

# Names as in the public CKD_EHR files; single-level CCS categories (HCUP), the phenotypes of the MIMIC-III benchmark.
CCS_IDS: dict[str, int] = {
    "Acute and unspecified renal failure": 157,
    "Acute cerebrovascular disease": 109,
    "Acute myocardial infarction": 100,
    "Cardiac dysrhythmias": 106,
    "Chronic kidney disease": 158,
    "Chronic obstructive pulmonary disease": 127,
    "Complications of surgical/medical care": 238,
    "Conduction disorders": 105,
    "Congestive heart failure; nonhypertensive": 108,
    "Coronary atherosclerosis and related": 101,
    "Diabetes mellitus with complications": 50,
    "Diabetes mellitus without complication": 49,
    "Disorders of lipid metabolism": 53,
    "Essential hypertension": 98,
    "Fluid and electrolyte disorders": 55,
    "Gastrointestinal hemorrhage": 153,
    "Hypertension with complications": 99,
    "Other liver diseases": 151,
    "Other lower respiratory disease": 133,
    "Other upper respiratory disease": 134,
    "Pleurisy; pneumothorax; pulmonary collapse": 130,
    "Pneumonia": 122,
    "Respiratory failure; insufficiency; arrest": 131,
    "Septicemia (except in labor)": 2,
    "Shock": 249,
}
DISEASES: tuple[str, ...] = tuple(CCS_IDS)
NUM_LABELS = len(DISEASES)
_QUESTION = "Determine that the patient has one or more of the following diseases at the next visit: "
INSTRUCTION = _QUESTION + ", ".join(DISEASES)
_INDEX = {name: i for i, name in enumerate(DISEASES)}


class NoDiseaseNamedError(ValueError):
    """An `output` ends where names should follow: cut off, or not filled in. The empty set is written "None"."""


class UnknownDiseaseError(ValueError):
    """An `output` names something that is none of the 25 diseases. Holds its position, never its text."""

    def __init__(self, position: int) -> None:
        super().__init__(f"disease number {position + 1} of the output is none of the 25 labels")
        self.position = position


def parse_output(output: str) -> tuple[bool, ...]:
    """Read the public `output` sentence into 25 booleans; only "None" is the empty set.

    Raises UnknownDiseaseError for a name that is none of the 25, also for "None" beside a disease; NoDiseaseNamedError
    when no name follows.
    """
    names = [name.strip() for name in output.strip().removeprefix(OUTPUT_PREFIX.strip()).split(",")]
    names = [name for name in names if name]
    if not names:
        raise NoDiseaseNamedError("the output names no disease")
    if names == [NO_DISEASE]:
        names = []
    present = [False] * NUM_LABELS
    for position, name in enumerate(names):
        if name not in _INDEX:
            raise UnknownDiseaseError(position)
        present[_INDEX[name]] = True
    return tuple(present)


def render_output(present: Sequence[bool]) -> str:
    """Write 25 booleans as the public `output` sentence (inverse of parse_output)."""
    return OUTPUT_PREFIX + (", ".join(names(present)) or NO_DISEASE)


def names(present: Iterable[bool]) -> list[str]:
    """The names of the labels that are true, in label order."""
    return [name for name, flag in zip(DISEASES, present, strict=True) if flag]


def encode(diseases: Iterable[str]) -> tuple[bool, ...]:
    """25 booleans from disease names; raises KeyError for an unknown one."""
    chosen = {_INDEX[name] for name in diseases}
    return tuple(i in chosen for i in range(NUM_LABELS))
