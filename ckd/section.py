"""What the configuration's sections are made of: frozen models, and a number of workers as a value."""

import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_WORKERS = re.compile(r"(\d+)(?:\.\.(\d+))?")


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), coerce_numbers_to_str=True)


class Workers(Section):
    """`N` or `min..max` workers; 0 means: in this process, without Ray."""

    min: int = Field(ge=0)
    max: int = Field(ge=0)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, int | str) and not isinstance(value, bool):
            match = _WORKERS.fullmatch(str(value).strip())
            if match is None:
                raise ValueError("write a number of workers (2) or a range (0..8)")
            return {"min": int(match[1]), "max": int(match[2] or match[1])}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError("the range's end lies below its start")
        return self

    @property
    def in_process(self) -> bool:
        """Whether the stage runs in this process."""
        return self.max == 0

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}..{self.max}"


def _octal(value: Any) -> Any:
    return f"{value:04o}" if isinstance(value, int) else str(value).zfill(4)  # YAML reads 0640 as the number 416


FileMode = Annotated[str, BeforeValidator(_octal), Field(pattern=r"^0[67][0-7][0-7]$")]  # the owner reads and writes
IN_PROCESS = Workers(min=0, max=0)
