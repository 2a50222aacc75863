"""The configuration's section `ingest`: how hospital tables become a cohort."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ckd.section import IN_PROCESS, Place, Section, Workers


def _names(value: Any) -> Any:
    if isinstance(value, str | int):
        value = str(value).split(",") if str(value).strip() else ()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str | int) for name in value):
        return value
    names = [str(name).strip().rstrip("/") for name in value]  # a prefix of MEDS codes may end in slashes
    if "" in names or len({name.lower() for name in names}) < len(names):
        raise ValueError("expected names of columns, each once")
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]  # a list, or text with commas between them


class IngestConfig(Section):
    """From hospital tables to a cohort of next-visit pairs (`ckd ingest`)."""

    coding_delay_days: float = Field(
        3, ge=0, le=3650, description="days from discharge until a visit's codes are complete: the prediction time"
    )
    newborns: bool = Field(False, description="keep admissions of type NEWBORN")
    treatment: Literal["lift", "count", "placebo", "none"] = Field(
        "lift", description="how drugs are chosen for the treatment clause"
    )
    min_support: int = Field(20, ge=1, description="subjects with drug and disease that a drug in the clause needs")
    top_drugs: int = Field(5, ge=1, description="drugs per disease in the clause")
    folds: int = Field(5, ge=2, le=100, description="subject folds: a train visit's clause is from the others")
    history: int = Field(
        0,
        ge=0,
        le=50,
        description="earlier visits that a visit's text tells at most; 0: the public text (docs/ingest.md)",
    )
    follow_up_end: str = Field(
        "", description="date until which the source tells what happens to its patients; none: its latest discharge"
    )
    code_map: Place = Field("", description="CSV of your own codes: code, version, and ccs or label (docs/ingest.md)")
    max_unmapped: float = Field(
        0.05, ge=0, le=1, description="share of the diagnosis rows that may have no CCS category before an ingest stops"
    )
    tuning_share: float = Field(0.1, ge=0, lt=1, description="share of the subjects in tuning, by hash")
    held_out_share: float = Field(0.2, ge=0, lt=1, description="share of the subjects in held_out, by hash")
    split_column: str = Field(
        "", description="column of the visits or patients (site, year group) that decides the split, not the hash"
    )
    tuning_values: tuple[str, ...] = Field((), description="values of split_column in tuning; none: by hash")
    held_out_values: tuple[str, ...] = Field((), description="values of split_column in held_out")
    sex_words: dict[str, Literal["F", "M"]] = Field(
        {}, description="words for the sex that mean other than docs/tables.md says, as {H: M, M: F}"
    )
    subgroups: Names = Field(
        (), description="columns of the visits or patients that are subgroups of the report too (docs/tables.md)"
    )
    meds_codes: Place = Field(
        "", description="CSV of prefixes of MEDS codes and what they are read as (docs/tables.md)"
    )
    partitions: int = Field(0, ge=0, description="parts of the tables; 0: by their size, about 1 GB of memory each")
    workers: Workers = Field(IN_PROCESS, description="Ray actors: N or min..max; 0: in this process, without Ray")

    @field_validator("follow_up_end")
    @classmethod
    def _a_date(cls, value: str) -> str:
        try:
            return value and datetime.fromisoformat(value).replace(tzinfo=None).isoformat()
        except ValueError:
            raise ValueError("expected a date such as 2019-12-31") from None

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.tuning_share + self.held_out_share >= 1:
            raise ValueError("tuning_share and held_out_share leave no subject to train")
        if bool(self.split_column) != bool(self.held_out_values or self.tuning_values):
            raise ValueError("split_column goes with held_out_values or tuning_values; give both or neither")
        if set(self.held_out_values) & set(self.tuning_values):
            raise ValueError("a value stands in both held_out_values and tuning_values")
        return self
