"""What a request may say, what an answer says, and how a bad request is refused without quoting it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

MAX_VISITS = 256  # per request
MAX_ITEMS = 2_000  # codes or drugs of a visit
MAX_CHARACTERS = 100_000  # per visit: many times what a student reads
_TOLD = 20  # errors of one request that are listed
_SAFE = {  # pydantic's messages that name rules and no value
    *("missing", "string_type", "string_too_long", "string_too_short", "string_unicode", "list_type", "too_long"),
    *("too_short", "model_attributes_type", "extra_forbidden", "blank", "body", "one_form", "literal_error"),
}
Drug = Annotated[str, Field(min_length=1, max_length=500)]


class CodeIn(BaseModel):
    """An ICD code and its version."""

    model_config = ConfigDict(extra="forbid", strict=True)
    code: str = Field(min_length=1, max_length=20)
    version: Literal["9", "10"]


class VisitIn(BaseModel):
    """One visit: its text, or its codes and drugs in the order in which a text lists them."""

    model_config = ConfigDict(extra="forbid", strict=True)
    visit_id: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="comes back with the answer"
    )
    input: str | None = Field(
        None, max_length=MAX_CHARACTERS, description="the visit's text, as in the field `input` of the training files"
    )
    diagnoses: list[CodeIn] | None = Field(None, max_length=MAX_ITEMS, description="by their sequence number")
    medications: list[Drug] | None = Field(None, max_length=MAX_ITEMS, description="drugs by first use")
    procedures: list[CodeIn] | None = Field(None, max_length=MAX_ITEMS, description="by their sequence number")

    @field_validator("input")
    @classmethod
    def _not_blank(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise PydanticCustomError("blank", "empty text")
        return text

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        coded = [each for each in (self.diagnoses, self.medications, self.procedures) if each is not None]
        if (self.input is None) == (not coded):
            raise PydanticCustomError("one_form", "expected either input or diagnoses, medications and procedures")
        return self


class PredictRequest(BaseModel):
    """Visits to score; all or none are answered."""

    model_config = ConfigDict(extra="forbid", strict=True)
    visits: list[VisitIn] = Field(min_length=1, max_length=MAX_VISITS)


class VisitOut(BaseModel):
    """One visit's answer."""

    visit_id: str | None
    probabilities: dict[str, float] = Field(description="label's name to the student's own probability")
    calibrated: dict[str, float] | None = Field(
        description="the same, calibrated on tuning; null where the model has no calibration"
    )
    names: list[str] | None = Field(
        description="labels at or above their threshold; null where the model has no thresholds"
    )
    truncated: bool = Field(description="whether part of the text was not read: it is longer than the student reads")


class PredictResponse(BaseModel):
    """Answers in the order of the visits."""

    model: dict[str, str | int | None] = Field(
        description="which model answered: hashes of student, weights and calibration, engine, max_length"
    )
    visits: list[VisitOut]


class ErrorResponse(BaseModel):
    """Why there is no answer."""

    error: str
    details: list[dict[str, str]] = Field([], description="where and what, at most 20; never a value of the request")


def refusal(error: RequestValidationError) -> dict[str, Any]:
    """The body of a 422: places and rules, but no unknown keys, which may hold text."""
    errors: Sequence[dict[str, Any]] = error.errors()
    details = [{"where": _where(one["loc"]), "what": _what(one)} for one in errors[:_TOLD]]
    more = f", {_TOLD} of {len(errors)} listed" if len(errors) > _TOLD else ""
    expected = '{"visits": [{"visit_id": "…", "input": "…"}]}'
    return {"error": f"not a valid request{more}; expected {expected} as application/json", "details": details}


def _where(location: Sequence[Any]) -> str:
    known = {*PredictRequest.model_fields, *VisitIn.model_fields, *CodeIn.model_fields}
    steps = [str(s) if isinstance(s, int) or s in known else "(unknown key)" for s in location if s != "body"]
    return ".".join(steps) or "body"


def _what(error: dict[str, Any]) -> str:
    if error["type"] == "model_attributes_type":
        return "expected a JSON object"
    return str(error["msg"]) if error["type"] in _SAFE else "not valid"
