"""An opened source, of tables (tables.py) or events (meds.py): its files, its rows, the place of a row, its license."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from ckd.ehr.canonical import ODD, PLACE_BITS, ROW, SCHEMAS, SUSPECT, UNREADABLE
from ckd.ehr.cells import Cells
from ckd.ehr.csvfile import CsvFile
from ckd.ehr.groups import GROUPS, listed, require_columns
from ckd.ehr.layouts import NOT_STATED
from ckd.ehr.parquetfile import ParquetFile
from ckd.errors import ConfigError, DataError
from ckd.ingest_config import IngestConfig
from ckd.visits.subgroups import require_free
from ckd.visits.task import Task


@dataclass(frozen=True)
class Source(ABC):
    """Every file was found and has the columns that it needs."""

    kind: str
    folder: str
    split_column: str  # lower case
    opened: tuple[CsvFile | ParquetFile, ...]  # a place's upper bits are an index into these
    dated: ClassVar[bool] = True  # whether the times between a patient's stays are known
    given_labels: tuple[tuple[int, str], ...] = field(
        default=(), kw_only=True
    )  # number of a label, what it is given by
    subgroups: tuple[str, ...] = field(default=(), kw_only=True)  # lower case; in the order of GROUPS

    @abstractmethod
    def rows(self, table: str) -> pl.LazyFrame:
        """Table `table` with the columns of SCHEMAS, subject_id, SUSPECT and ODD, in any order."""

    @abstractmethod
    def titles(self) -> pl.DataFrame:
        """The source's own code titles: TITLES, kind "diagnosis" or "procedure"; empty where it has none."""

    @abstractmethod
    def indices(self, table: str) -> Sequence[int]:
        """Which files `table` is read from."""

    @abstractmethod
    def usual_license(self) -> str:
        """What holds where the folder has no LICENSE file."""

    def with_given(self, task: Task, paths: Sequence[str]) -> "Source":
        """This source with the labels of `task` that it, or the label tables at `paths`, hold.
        Raises ConfigError for a label that nothing holds."""
        if paths:
            raise ConfigError(f"--labels goes with meds, not with {self.kind}")
        for label in task.labels:
            if label.given:
                what = f"task.labels: label '{label.name}' is given by '{label.given}'"
                raise ConfigError(f"{what}, which is not read from {self.kind}; give it with meds or tables")
        return self

    def given_rows(self) -> pl.LazyFrame:
        """Table "given", as `rows` has the others."""
        return pl.LazyFrame(schema={**SCHEMAS["given"], SUSPECT: pl.Boolean(), ODD: pl.UInt32()})

    @property
    def death_days(self) -> float:
        """For so many days after discharge a death is known wherever it was; 0: only deaths in hospital are."""
        return math.inf

    def blank_rows(self, table: str, found: Mapping[int, Mapping[str, int]]) -> int:
        """How many rows of `table` hold nothing. `found`: file -> rows read, number of the last record, SUSPECT rows.
        Raises DataError for lines that polars read wrongly in silence."""
        return 0

    def minding_quotes(self, found: Mapping[int, Mapping[str, int]]) -> "Source":
        """This source, but files that were read as if they had no quotes, and do have some, are read with quotes."""
        return self

    def every(self, table: str) -> pl.LazyFrame:
        """`rows`, or `given_rows`."""
        return self.given_rows() if table == "given" else self.rows(table)

    def scan(self, table: str) -> pl.LazyFrame:
        """`rows` in the order of SCHEMAS; diagnoses, medications and procedures with subject_id before them."""
        subject = [] if "subject_id" in SCHEMAS[table] else ["subject_id"]
        return self.every(table).select(*subject, *SCHEMAS[table])

    def locate(self, table: str, place: int) -> str:
        """`file:line` of a row (Parquet: `file:row`). `table` is not needed: a place knows its file."""
        file = self.opened[place >> PLACE_BITS]
        return f"{file.path}:{file.line_of(place & (1 << PLACE_BITS) - 1)}"

    def with_its_splits(self, config: IngestConfig) -> IngestConfig:
        """`config`, which decides the splits unless the source has its own."""
        return config

    def wanted(self, table: str) -> str:
        """What rows of `table` look like, for a message that there are none."""
        return "give a folder of tables with rows" if table == "visits" else f"expected the {table} of each stay"

    @property
    def remedies(self) -> Mapping[str, str]:
        """Reason why an admission is excluded -> what to do about it in this kind of source, if that is special."""
        return {}

    def knowing(self, codes: Collection[tuple[str, str]]) -> "Source":
        """This source, whose user says what these codes (normal code, version) are."""
        return self

    @property
    def passed_over(self) -> list[dict[str, Any]]:
        """{prefix, events, subjects} of rows that are not read: events, visits, orders."""
        return []

    @property
    def others(self) -> list[Path]:
        """Files beside the tables that change the cohort."""
        return []

    @property
    def settings(self) -> str:
        """What else decides how the files are read."""
        return ""

    @property
    def files(self) -> dict[str, int]:
        """Every file that is read: its name below the folder -> bytes."""
        return {name: path.stat().st_size for name, path in self._paths.items()}

    @property
    def _paths(self) -> dict[str, Path]:
        """Name -> path of every file; of a label table elsewhere its name alone."""
        paths = [*(file.path for file in self.opened), *self.others]
        return {
            path.relative_to(self.folder).as_posix()
            if path.is_relative_to(self.folder)
            else f"--labels {path.name}": path
            for path in paths
        }

    @property
    def description(self) -> dict[str, Any]:
        """What the cohort's card says of the source."""
        files = [{"name": name, "size": size} for name, size in self.files.items()]
        stated = {"data_license": self.license, "credentialed": self.credentialed}
        return {"kind": self.kind, "files": files, **stated}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the names and bytes of the files, which are read once for it."""
        whole = hashlib.sha256(self.settings.encode())
        for name, path in self._paths.items():
            with path.open("rb") as stream:
                whole.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()

    @property
    def license(self) -> str:
        """The first line of the folder's LICENSE file, else what holds for this kind of source."""
        lines = (line.strip() for line in (self._license_text or "").splitlines())
        return next(filter(None, lines), "") or self.usual_license()

    @property
    def credentialed(self) -> bool:
        """Whether rows may not simply be passed on: the license asks for credentials, or none is stated."""
        text = self.license if self._license_text is None else self._license_text
        return "credentialed" in text.lower() or text == NOT_STATED

    def with_subgroups(self, names: Sequence[str]) -> "Source":
        """This source with the columns `names` of its visits or patients as subgroups.
        Raises ConfigError for one that there is not, or that is no group."""
        require_free(names)
        lower = tuple(name.lower() for name in names)
        require_columns(lower, self._columns_of("visits", "patients"), self.taken(), self.folder)
        return replace(self, subgroups=lower)

    def taken(self) -> dict[str, str]:
        """Column of the visits or patients -> what it is read as, of those that can be no subgroup."""
        return {}

    def groups_of(self, table: str, index: int) -> dict[str, pl.Expr]:
        """The column GROUPS of file `index`, if the table has one and any is asked for."""
        return listed(self.subgroups, self.opened[index].columns) if GROUPS in SCHEMAS.get(table, ()) else {}

    @contextmanager
    def explained(self, table: str) -> Iterator[None]:
        """Turn what polars raises while `table` is read into a DataError: file, line, damage and remedy, no cell."""
        try:
            yield
        except UNREADABLE as error:
            for index in self.indices(table):
                self.opened[index].find_damage()
            what = f"{table} could not be read or stored ({type(error).__name__})"
            raise DataError(f"{self.folder}: {what}; is there space left, may it be read?") from None

    def require_split_column(self) -> None:
        """Raise ConfigError when neither visits nor patients have the split column."""
        known = self._columns_of("visits", "patients")
        if self.split_column and not any(self.split_column in columns for columns in known.values()):
            there = "; ".join(f"{table}: {', '.join(sorted(columns))}" for table, columns in known.items() if columns)
            what = f"ingest.split_column={self.split_column}: no such column in {self.folder}"
            raise ConfigError(f"{what} ({there}); name one of these")

    def _columns_of(self, *tables: str) -> dict[str, dict[str, pl.DataType]]:
        """Of each table the columns of all its files, with their types."""
        return {t: {c: dtype for i in self.indices(t) for c, dtype in self.opened[i].columns.items()} for t in tables}

    def cells(self, table: str, columns: Mapping[str, str], index: int) -> Cells:
        """The reader of file `index`: canonical column -> source column. Raises DataError for a type that cannot hold
        it."""
        file = self.opened[index]
        return Cells(table, {name: (column, file.columns[column]) for name, column in columns.items()}, str(file.path))

    def raw(self, columns: Mapping[str, str], index: int, **more: pl.Expr) -> pl.LazyFrame:
        """The cells of file `index` as they are, under canonical names; beside them `place` and `more`."""
        cells = {name: pl.col(column) for name, column in columns.items()}
        return self.opened[index].scan().select(**cells, place=self.place(index), **more)

    @abstractmethod
    def column(self, table: str, name: str, place: int) -> str:
        """The source column that canonical column `name` of the row at `place` is read from; "" where there is none."""

    def cell(self, table: str, name: str, place: int) -> str:
        """What stands in that column of that row."""
        found = self.in_column(self.column(table, name, place), place)
        return "" if found is None else str(found)

    def in_column(self, column: str, place: int) -> Any:
        """The cell of a source column in the row at `place`; None where it is empty. Reads the file up to it."""
        file, record = self.opened[place >> PLACE_BITS], place & (1 << PLACE_BITS) - 1
        row = file.scan().slice(record - file.first, 1).select(column).collect()
        return row.item() if row.height else None

    def files_of(self, table: str) -> str:
        """The file of a table, or the first of its parts, for a message."""
        there = [str(self.opened[index].path) for index in self.indices(table)]
        return f"{there[0]} and {len(there) - 1} more" if len(there) > 1 else next(iter(there), self.folder)

    def place(self, index: int) -> pl.Expr:
        """The place of each row of file `index`."""
        return pl.col(ROW).cast(pl.UInt64) + (index << PLACE_BITS) + self.opened[index].first

    @cached_property
    def _license_text(self) -> str | None:
        found = sorted(p for p in Path(self.folder).iterdir() if p.name.lower().startswith("license") and p.is_file())
        return found[0].read_text(errors="replace") if found else None
