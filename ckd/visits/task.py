"""What a run predicts: the labels in their order, what each of them means, and the sentences around them.

Every label column has one value per label, in this order. A stage is handed the task; none knows its labels by itself.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ckd.section import Section
from ckd.store.files import digest

Labels = tuple[bool | None, ...]  # one value per label; None: unknown
MOST_LABELS = 1000
NAMED_LABELS = 60  # up to so many names an instruction may list: more leave no room for the visit
GENERIC = "Determine which outcomes the patient will have after this visit."  # names no label: serves every task
OUTPUT = "Outcome that the patient may have: "
NO_LABEL = "None"
TASK_IN_CONFIG = "ckd_task"  # key of a student's config.json that holds its task, where that is not ccs25
_CODE = r"[A-Za-z0-9]+(\.[A-Za-z0-9]*)?"
# a prefix such as I50.1, or a range of prefixes such as I20-I25
Code = Annotated[str, Field(pattern=f"^{_CODE}(-{_CODE})?$")]
Days = Annotated[float, Field(gt=0, le=36500)]
# What a label is, one of these; `within_days` stands beside codes.
KINDS = ("ccs", "icd9", "icd10", "codes", "any_of", "given", "readmission_days", "death_days")
_CODED = ("ccs", "icd9", "icd10", "codes", "any_of")


_FORMS = {"icd9": re.compile(r"[VE]?[0-9]+|[VE]"), "icd10": re.compile(r"[A-Z]([0-9][0-9A-Z]*)?")}
_SUCH = {"icd9": "584.9", "icd10": "N17.1"}
_RANGES = {"icd9": "584-586", "icd10": "I20-I25"}
_CATEGORY = 3  # characters of a category, below which the end of a range is no code


class NoLabelNamedError(ValueError):
    """An `output` ends where names should follow: cut off, or not filled in. The empty set is written "None"."""


class UnknownLabelError(ValueError):
    """An `output` names something that is none of the labels. Holds its position, never its text."""

    def __init__(self, position: int, count: int) -> None:
        super().__init__(f"disease number {position + 1} of the output is none of the {count} labels")
        self.position = position


class LabelError(ValueError):
    """What is wrong with a label beside the others: its place among them."""

    def __init__(self, place: int, message: str) -> None:
        super().__init__(message)
        self.place = place


def _require_code(kind: str, code: str) -> None:
    """Raise ValueError for a prefix or range of which no code of ICD-9-CM or ICD-10 can be: it would never be true."""
    low, _, high = code.replace(".", "").upper().partition("-")
    for end in filter(None, code.upper().split("-")):
        if not _FORMS[kind].fullmatch(end.replace(".", "")) or (set(end.partition(".")[2]) == {"X"}):
            raise ValueError(
                f"{code} begins no code of {kind}; expected a prefix such as {_SUCH[kind]}, without x or *"
            )
    if high and high < low:
        raise ValueError(f"the range {code} ends before it begins")
    if high and len(high) < min(len(low), _CATEGORY):
        raise ValueError(f"the range {code}: write its end out, as in {_RANGES[kind]}")


class Codes(Section):
    """ICD codes: prefixes, or ranges of prefixes with both ends in. Points in codes do not count."""

    icd9: tuple[Code, ...] = ()
    icd10: tuple[Code, ...] = ()


class Threshold(Section):
    """What a label's threshold reaches, in place of evaluation.threshold_for and threshold_target."""

    kind: Literal["sensitivity", "precision"] = Field(alias="for")
    target: float = Field(gt=0, le=1)


class Label(Section):
    """One label: its name and what makes it true at the next visit (or within a time)."""

    name: str = Field(min_length=1, max_length=200)
    ccs: tuple[int, ...] = Field((), description="single-level CCS categories of diagnoses (HCUP)")
    icd9: tuple[Code, ...] = Field((), description="ICD-9-CM prefixes or ranges")
    icd10: tuple[Code, ...] = Field((), description="ICD-10 prefixes or ranges")
    excluding: Codes = Field(Codes(), alias="except", description="codes that do not count, as prefixes or ranges")
    codes: tuple[tuple[str, str], ...] = Field((), description="whole codes of a CSV file with columns code, version")
    any_of: tuple[str, ...] = Field((), description="other labels of this file, one of which is enough")
    given: str = Field("", description="a column of the input's visits that holds the label of that visit")
    readmission_days: Days | None = Field(None, description="another stay begins within so many days of discharge")
    death_days: Days | None = Field(None, description="the patient dies within so many days of discharge")
    within_days: Days | None = Field(
        None, description="at any stay that begins within so many days of discharge; else at the next stay"
    )
    threshold: Threshold | None = None
    group: str = Field("", description="a heading for reports")

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if "," in self.name or ";" in self.name[-1:] or self.name != self.name.strip() or not self.name.isprintable():
            raise ValueError(
                "a name has no comma, no line break, no invisible character and no blanks at its ends: an output lists "
                "names"
            )
        if self.name == NO_LABEL:
            raise ValueError(f'"{NO_LABEL}" stands for no label; choose another name')
        kinds = [kind for kind in KINDS if getattr(self, kind)]
        if not kinds:
            raise ValueError(f"says not what it means; expected one of {', '.join(KINDS)}")
        if len(kinds) > 1 and not set(kinds) <= set(_CODED):
            raise ValueError(f"means two things at once: {' and '.join(kinds)}; make two labels of it")
        if self.within_days and not self.coded:
            raise ValueError(f"within_days goes with codes, not with {kinds[0]}")
        if (self.excluding.icd9 or self.excluding.icd10) and not self.coded:
            raise ValueError(f"except takes codes from the label's own, which {kinds[0]} has not")
        for kind in _FORMS:
            for code in (*getattr(self, kind), *getattr(self.excluding, kind)):
                _require_code(kind, code)
        return self

    @property
    def coded(self) -> bool:
        """Whether it has diagnosis codes of its own."""
        return bool(self.ccs or self.icd9 or self.icd10 or self.codes)


class Task(Section):
    """Labels in their order with the sentences around them, stored with the visits."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    instruction: str = Field(GENERIC, min_length=1, description="{labels} in it becomes the names")
    output: str = Field(OUTPUT, description="stands before the names in a public output sentence")
    labels: tuple[Label, ...] = Field(min_length=1, max_length=MOST_LABELS)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        seen: set[str] = set()
        for place, label in enumerate(self.labels):
            if label.name in seen:
                raise LabelError(place, f"two labels are named '{label.name}'")
            unknown = [name for name in label.any_of if name not in seen]
            if unknown:
                raise LabelError(
                    place, f"label '{label.name}': any_of names '{unknown[0]}', which is no label above it"
                )
            seen.add(label.name)
        if "{labels}" in self.instruction and len(self.labels) > NAMED_LABELS:
            raise ValueError(
                f"instruction lists {len(self.labels)} names, more than {NAMED_LABELS}, which leaves no room for the "
                "visit; leave {labels} out of it"
            )
        return self

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The labels' names in their order."""
        return tuple(label.name for label in self.labels)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Name -> place."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def question(self) -> str:
        """The instruction with the names in it: the public field `instruction` of every visit."""
        return self.instruction.replace("{labels}", ", ".join(self.names))

    @cached_property
    def identity(self) -> str:
        """Hash of what decides a label's value and its place; sentences, thresholds and headings do not."""
        kept = [label.model_dump(exclude={"threshold", "group"}) for label in self.labels]
        return digest([self.name, kept])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what decides the stored visits: the identity and the sentences."""
        return digest([self.identity, self.instruction, self.output])

    @property
    def stored(self) -> dict[str, Any]:
        """As JSON that `Task.model_validate` reads back."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @property
    def next_visit_only(self) -> bool:
        """Whether every label is a diagnosis at the next visit, so that figures hold for patients who return."""
        return not any(label.readmission_days or label.death_days or label.within_days for label in self.labels)

    def generic(self) -> "Task":
        """The same task with an instruction that names no label: its visits share embeddings with other tasks."""
        return Task.model_validate({**self.stored, "instruction": GENERIC})

    def parse_output(self, output: str) -> tuple[bool, ...]:
        """Read an `output` sentence into one boolean per label; only "None" is the empty set.

        Raises UnknownLabelError for a name that is none of them, also for "None" beside a label; NoLabelNamedError
        when no name follows.
        """
        found = [name.strip() for name in output.strip().removeprefix(self.output.strip()).split(",")]
        found = [name for name in found if name]
        if not found:
            raise NoLabelNamedError("the output names no disease")
        present = [False] * len(self.names)
        for position, name in enumerate([] if found == [NO_LABEL] else found):
            if name not in self.index:
                raise UnknownLabelError(position, len(self))
            present[self.index[name]] = True
        return tuple(present)

    def render_output(self, present: Sequence[bool | None]) -> str:
        """Write one value per label as an `output` sentence (inverse of parse_output). Unknown ones are not named."""
        return self.output + (", ".join(self.named(present)) or NO_LABEL)

    def named(self, present: Iterable[bool | None]) -> list[str]:
        """The names of the labels that are true, in label order."""
        return [name for name, flag in zip(self.names, present, strict=True) if flag]

    def encode(self, names: Iterable[str]) -> tuple[bool, ...]:
        """One boolean per label from names; raises KeyError for an unknown one."""
        present = [False] * len(self.names)
        for name in names:
            present[self.index[name]] = True
        return tuple(present)
