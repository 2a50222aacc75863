"""The kind of source that has tables: they are found in a folder and read by the source's layout (layouts.py)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import polars as pl

from ckd.ehr import labeltables, values
from ckd.ehr.canonical import ODD, PLACE_BITS, SCHEMAS, SUSPECT, TABLE_NAMES, TITLES, with_missing
from ckd.ehr.cells import unread
from ckd.ehr.csvfile import CsvFile
from ckd.ehr.layouts import Layout, Table, missing_column
from ckd.ehr.parquetfile import ParquetFile
from ckd.ehr.plain import IDS, TIMES
from ckd.ehr.source import Source
from ckd.errors import ConfigError, DataError
from ckd.visits.datafolder import entries, reason_to_refuse, table_mark
from ckd.visits.task import Task

_ENDINGS = (".csv.gz", ".csv.zst", ".csv", ".parquet")
_END_DAY = "end_day"  # extra column of a file's visits: the discharge time is a date alone
_NOTHING = {"rows": 0, "records": 0, "suspects": 0}


@dataclass(frozen=True)
class Tables(Source):
    """A folder of tables."""

    layout: Layout
    where: Mapping[str, tuple[int, ...]]  # table, "diagnosis" or "procedure" (titles) -> indices of its files

    @classmethod
    def open(cls, kind: str, folder: str, split_column: str, layout: Layout) -> Self:
        """Find the files and read their headers.
        Raises DataError for a table or a column that is missing, there twice or of no use."""
        found = _find_tables(layout, Path(folder))
        paths = [path for files in found.values() for path in files]
        opened = tuple(map(cls.open_file, paths))
        where = {name: tuple(paths.index(path) for path in files) for name, files in found.items()}
        source = cls(kind, folder, split_column, opened, layout, where)
        source._require_columns()
        return source

    @staticmethod
    def open_file(path: Path) -> CsvFile | ParquetFile:
        """Read the header of one file."""
        return (ParquetFile if path.suffix.lower() == ".parquet" else CsvFile).open(path)

    def indices(self, table: str) -> Sequence[int]:
        """The files found for `table`."""
        return self.where.get(table, ())

    @property
    def death_days(self) -> float:
        """The layout's, if there is a column with the date of death."""
        for name, table in self.layout.tables.items():
            column = table.columns.get("dod")
            if any(column in self.opened[index].columns for index in self.indices(name)):
                return self.layout.death_days
        return 0

    def usual_license(self) -> str:
        """The layout's."""
        return self.layout.license

    def rows(self, table: str) -> pl.LazyFrame:
        """Table `table`, its files one after the other; a table that the layout does not have is empty."""
        names = {**SCHEMAS[table], "subject_id": pl.String(), SUSPECT: pl.Boolean(), ODD: pl.UInt32()}
        if not self.indices(table):
            return pl.LazyFrame(schema=names)
        return pl.concat([self._rows_of_file(table, index).select(*names) for index in self.indices(table)])

    def with_given(self, task: Task, paths: Sequence[str]) -> "Tables":
        """Labels are columns of the visits."""
        if paths:
            raise ConfigError("--labels goes with meds; in tables a label is a column of the visits (docs/labels.md)")
        there = {name for index in self.indices("visits") for name in self.opened[index].columns}
        given = tuple((n, label.given.lower()) for n, label in enumerate(task.labels) if label.given)
        for number, column in given:
            if column not in there:
                what = f"task.labels: label '{task.names[number]}' is given by column '{column}'"
                raise ConfigError(f"{what}, which the visits have not; there are {', '.join(sorted(there))}")
        return replace(self, given_labels=given)

    def given_rows(self) -> pl.LazyFrame:
        """Of each given label a row per visit."""
        each = [self._given(index, *given) for index in self.indices("visits") for given in self.given_labels]
        empty = super().given_rows()
        return pl.concat([empty, *(rows.select(empty.collect_schema().names()) for rows in each)])

    def _given(self, index: int, label: int, column: str) -> pl.LazyFrame:
        """One column of the visits as rows of labels."""
        ids = {name: self.layout.tables["visits"].required[name] for name in ("visit_id", "subject_id")}
        dtype = self.opened[index].columns.get(column)
        labels = pl.lit(None, pl.Int8) if dtype is None else labeltables.value(column, dtype)
        rows = self.opened[index].scan().filter(pl.col(ids["visit_id"]).is_not_null())
        cells = {name: pl.col(source) for name, source in ids.items()}
        rows = rows.select(**cells, value=labels, place=self.place(index))
        rows = self.cells("given", ids, index).rows(rows, "value", "place")
        return with_missing(rows.with_columns(label=pl.lit(label, pl.UInt16), suspect=pl.lit(False)), SCHEMAS["given"])

    def column(self, table: str, name: str, place: int) -> str:
        """As the layout names it."""
        layout = self.layout.tables["visits" if table == "given" else table]
        found = layout.found(self.opened[place >> PLACE_BITS].columns)
        return self.split_column if name == "cut" else found.get(name, "")

    def taken(self) -> dict[str, str]:
        """Ids and times by the layout."""
        tables = [table for name, table in self.layout.tables.items() if name in ("visits", "patients")]
        known = {column: name for table in tables for name, column in table.columns.items()}
        return {column: f"'{name}'" for column, name in known.items() if name in (*IDS, *TIMES)}

    def titles(self) -> pl.DataFrame:
        """The rows of the tables of titles that have a code and a title."""
        frames = [pl.DataFrame(schema=TITLES)]
        for kind, table in self.layout.titles.items():
            for index in self.indices(kind):
                with self.explained(kind):
                    cells = self.cells("diagnoses", table.required, index)
                    rows = cells.rows(self.raw(table.required, index))
                    rows = rows.with_columns(kind=pl.lit(kind), **_constants(table)).select(*TITLES)
                    frames.append(rows.drop_nulls(["code", "title"]).collect())
        return pl.concat(frames)

    def blank_rows(self, table: str, found: Mapping[int, Mapping[str, int]]) -> int:
        """Blank lines of CSV files, empty rows of Parquet; every CSV line is proved to be read right."""
        return sum(self.opened[i].blank_rows(**found.get(i, _NOTHING)) for i in self.indices(table))

    def minding_quotes(self, found: Mapping[int, Mapping[str, int]]) -> Self:
        """This source itself where no file was misread."""
        files = tuple(f.minding_quotes(**found[i]) if i in found else f for i, f in enumerate(self.opened))
        return self if files == self.opened else replace(self, opened=files)

    def _rows_of_file(self, table: str, index: int) -> pl.LazyFrame:
        layout, file = self.layout.tables[table], self.opened[index]
        used = layout.found(file.columns)
        if "cut" in SCHEMAS[table] and self.split_column in file.columns:
            used["cut"] = self.split_column
        cells = self.cells(table, used, index)
        # The first cell and the last are looked at too: they are what is left of a line that was cut off.
        read = {next(iter(file.columns)), *used.values(), list(file.columns)[-1]}
        rows = file.scan().filter(pl.any_horizontal(pl.col(column).is_not_null() for column in read))
        grouped = [name for name in self.subgroups if name in file.columns]
        others = {"place": self.place(index), SUSPECT: file.suspect([*used.values(), *grouped])}
        others |= self.groups_of(table, index)
        if table == "visits":
            others[_END_DAY] = _is_day(used["end"], file.columns[used["end"]])
        rows = rows.select(**{name: pl.col(column) for name, column in used.items()}, **others)
        return _derived(table, cells.rows(rows, *others).with_columns(**_constants(layout)))

    def _require_columns(self) -> None:
        for name, table in self.layout.all_tables.items():
            for index in self.indices(name):
                file, wanted = self.opened[index], table.required.values()
                if missing := [column for column in wanted if column not in file.columns]:
                    raise missing_column(file.path, missing[0], file.columns, wanted)
                if name in TABLE_NAMES:
                    with self.explained(name):
                        self._rows_of_file(name, index)  # raises DataError for a type that will not do


def _constants(table: Table) -> dict[str, pl.Expr]:
    return {name: pl.lit(value) for name, value in table.constants.items()}


def _is_day(column: str, dtype: pl.DataType) -> pl.Expr:
    """Whether a time is a date alone."""
    return values.is_day(pl.col(column)) if dtype == pl.String else pl.lit(dtype == pl.Date)


def _derived(table: str, rows: pl.LazyFrame) -> pl.LazyFrame:
    """`rows` with every canonical column: died and newborn from what the source has, null where it has nothing."""
    names = rows.collect_schema().names()
    if table == "visits":
        death = pl.col("death").is_not_null() if "death" in names else pl.lit(False)
        kind = pl.col("admission_type").str.to_uppercase() == "NEWBORN" if "admission_type" in names else pl.lit(False)
        newborn = pl.col("newborn") if "newborn" in names else pl.lit(False)
        start, end = pl.col("start"), pl.col("end")
        # A discharge date is its midnight, which lies before an admission on that day.
        same_day = pl.col(_END_DAY) & (end < start) & (end.dt.date() == start.dt.date())
        rows = rows.with_columns(
            died=pl.col("expired") | death,
            newborn=newborn | kind.fill_null(False),
            end=pl.when(same_day).then(start).otherwise(end),
            start_bad=unread(table, "start"),
            end_bad=unread(table, "end"),
        )
    return with_missing(rows, SCHEMAS[table])


def _find_tables(layout: Layout, root: Path) -> dict[str, tuple[Path, ...]]:
    """Table (or kind of titles) -> its files. Raises DataError for a table that is missing or there twice."""
    inside = [p for p in sorted(root.iterdir()) if p.name.lower() in layout.subfolders and p.is_dir()]
    folders = [root, *inside]
    found = {name: _files(table, folders) for name, table in layout.all_tables.items()}
    for name, table in layout.tables.items():
        if not found[name]:
            there = ", ".join(sorted(str(p.relative_to(root)) for f in folders for p in f.iterdir())[:30]) or "nothing"
            hint = f"expected {table.file}.csv(.gz, .zst) or .parquet, if need be with its header only"
            raise DataError(f"{root}: no table '{table.file}' (there: {there}); {hint}")
    return found


def _files(table: Table, folders: Sequence[Path]) -> tuple[Path, ...]:
    """The table's file in one of the folders, or its parts. Another one of its name may hold rows that would be left
    out: DataError."""
    named = [p for folder in folders for p in folder.iterdir() if p.name.lower().partition(".")[0] == table.file]
    named = [p for p in named if reason_to_refuse(p.name, None if p.is_dir() else 0)]
    names = [table.file + ending for ending in _ENDINGS]
    # Spark and others write a folder of parts under a file's name.
    found = [p for p in named if p.name.lower() in (table.file, *names) and p.is_dir()]
    found += [p for p in named if p.name.lower() in names and not p.is_dir()]
    if found and len(named) > 1:
        there = " and ".join(sorted(str(p.relative_to(folders[0])) for p in named))
        raise DataError(f"{folders[0]}: {there} are there, so which one counts is open; keep one")
    return _parts(found[0]) if found and found[0].is_dir() else tuple(found)


def _parts(folder: Path) -> tuple[Path, ...]:
    """The files of a table that is a folder of parts."""
    found = entries(str(folder))
    for name, size in found.items():
        readable = size is not None and size >= 0 and name.lower().endswith(_ENDINGS)
        expected = " or ".join(_ENDINGS[2:])
        if why := table_mark(str(folder), name, found) or (not readable and reason_to_refuse(name, size, expected)):
            raise DataError(f"{folder / name}: {why}")
    parts = [folder / name for name in found if name.lower().endswith(_ENDINGS) and name[0] not in "._"]
    repeated = [stem for stem, n in Counter(p.name.lower().partition(".")[0] for p in sorted(parts)).items() if n > 1]
    if repeated:
        raise DataError(f"{folder}: more than one file '{repeated[0]}', so which one counts is open; keep one")
    return tuple(sorted(parts))
