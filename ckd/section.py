"""What the configuration's sections are made of: frozen models, places, and a number of workers as a value."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_WORKERS = re.compile(r"(\d+)(?:\.\.(\d+))?")


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


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


MADE_HOME = "ckd-home-"  # begins the name of a temporary one, which a command takes where there is none


def place(value: str) -> str:
    """A path or URL with `~` and `~user` as the home folder, which no shell has put in behind `=` or in a file.

    Raises ValueError where no such user has one: a folder of that name would be made.
    """
    value = value.removeprefix("file://")
    if not value.startswith("~"):
        return value
    first = value.partition("/")[0]
    with suppress(RuntimeError):
        if not Path(first).expanduser().name.startswith(MADE_HOME):
            return str(Path(value).expanduser())
    raise ValueError(f"no home folder is known for {first}; write the whole path (or ./{value} for such a name)")


Place = Annotated[str, AfterValidator(place)]  # a path or URL
FileMode = Annotated[  # the owner reads and writes
    str,
    BeforeValidator(lambda value: value.zfill(4) if isinstance(value, str) else value),
    Field(pattern=r"^0[67][0-7][0-7]$"),
]
IN_PROCESS = Workers(min=0, max=0)
