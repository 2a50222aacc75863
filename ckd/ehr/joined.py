"""Tables of which a row needs the cells of other tables, as in OMOP and eICU. What Tables reads row by row is here read
in two steps: `given`, the cells of one table, and in the subclass `rows`, which looks up what else a row needs.
Costs a second pass over the columns that are looked up, and the proof of each CSV line, whether it is needed or not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Self

import polars as pl

from ckd.ehr.canonical import CELLS, PLACE_BITS, SCHEMAS, SUSPECT
from ckd.ehr.cells import Cells
from ckd.ehr.csvfile import CsvFile
from ckd.ehr.layouts import Layout
from ckd.ehr.parquetfile import ParquetFile
from ckd.ehr.source import Source
from ckd.ehr.tabfile import TabFile
from ckd.ehr.tables import Tables
from ckd.errors import DataError
from ckd.visits.subgroups import NOTHING
from ckd.visits.task import Task

_TEXT = pl.String()
Raw = dict[str, tuple[pl.Expr, pl.DataType]]  # canonical column -> what is in its place in the file, its type


class Joined(Tables):
    """A folder of tables that are looked up in each other."""

    WHOLE: ClassVar[frozenset[str]]  # columns of the layout, beside those of CELLS, that hold whole numbers
    LIKE: ClassVar[Mapping[str, str]] = {}  # a table that is no canonical one -> the one whose cells it has

    @classmethod
    def open(cls, kind: str, folder: str, split_column: str, layout: Layout) -> Self:
        """As Tables; but no file is taken for one without quotes, since a row that was looked up is not read again."""
        source = super().open(kind, folder, split_column, layout)
        return replace(source, opened=tuple(_with_quotes(file) for file in source.opened))

    def with_given(self, task: Task, paths: Sequence[str]) -> Self:
        """This source itself: none of its columns is a label. Raises ConfigError for a label that wants one."""
        Source.with_given(self, task, paths)
        return self

    def minding_quotes(self, found: Mapping[int, Mapping[str, int]]) -> Self:
        """This source itself."""
        return self

    def blank_rows(self, table: str, found: Mapping[int, Mapping[str, int]]) -> int:
        """Rows of a table without a cell that is read. Raises DataError for a line that has not a cell per column."""
        return sum(self._blank_rows(table, index) for index in self.indices(table))

    def column(self, table: str, name: str, place: int) -> str:
        """As the layout names it."""
        return self._used(table, place >> PLACE_BITS).get(name, "")

    def given(self, table: str) -> pl.LazyFrame:
        """The rows of a table before anything is looked up: the columns of the layout under their canonical names,
        `cut` where it is there, `place`, SUSPECT and ODD. Raises DataError for a whole number that is none."""
        if table not in self._proved:
            if table not in SCHEMAS:  # partition.py proves the others
                self.blank_rows(table, {})
            self._require_whole(table)
            self._proved.add(table)
        frames = [self._rows_of_file(table, index) for index in self.indices(table)]
        return pl.concat(frames, how="diagonal")

    def beside(self, table: str, index: int) -> dict[str, pl.Expr]:
        """The columns of the layout that are no canonical ones: whole numbers, or text that is null where empty."""
        types, used = self.opened[index].columns, self._used(table, index)
        cells = {n: (pl.col(column), types[column]) for n, column in used.items() if n not in self._cells(table)}
        return {n: whole(*cell) if n in self.WHOLE else text(*cell) for n, cell in cells.items()}

    def read_as(self, table: str, index: int) -> Raw:
        """What is read as the canonical columns."""
        types, used = self.opened[index].columns, self._used(table, index)
        return {n: (pl.col(column), types[column]) for n, column in used.items() if n in self._cells(table)}

    def require_words(self, table: str, name: str, *words: str) -> None:
        """Raise DataError at the first cell of a column that is neither empty nor one of `words`, in any capitals."""
        rows = self.given(table).filter(~pl.col(name).str.to_lowercase().is_in([word.lower() for word in words]))
        if (place := rows.select(pl.col("place").min()).collect(engine="streaming").item()) is not None:
            what = f"column '{self.column(table, name, place)}' is neither {' nor '.join(words)}"
            raise DataError(f"{self.locate(table, place)}: {what}; write that cell anew, or leave it empty")

    def _rows_of_file(self, table: str, index: int) -> pl.LazyFrame:
        file, raw, used = self.opened[index], self.read_as(table, index), self._used(table, index)
        others = {**self.beside(table, index), "place": self.place(index), SUSPECT: file.suspect(used.values())}
        others |= self.groups_of(table, index)
        if not raw:  # of concepts
            return file.scan().filter(self._has_cells(table, index)).select(**others)
        columns = {name: (used[name], dtype) for name, (_, dtype) in raw.items()}
        cells = Cells(self.LIKE.get(table, table), columns, str(file.path))
        rows = file.scan().filter(self._has_cells(table, index))
        return cells.rows(rows.select(**{name: expr for name, (expr, _) in raw.items()}, **others), *others)

    def _used(self, table: str, index: int) -> dict[str, str]:
        """Canonical column -> column of a file."""
        columns = self.opened[index].columns
        used = self.layout.all_tables[table].found(columns)
        return used | (
            {"cut": self.split_column} if "cut" in self._cells(table) and self.split_column in columns else {}
        )

    def _cells(self, table: str) -> Sequence[str]:
        return CELLS.get(self.LIKE.get(table, table), ())

    def _has_cells(self, table: str, index: int) -> pl.Expr:
        # The first cell and the last are looked at too: they are what is left of a line that was cut off.
        names = list(self.opened[index].columns)
        read = {names[0], *self._used(table, index).values(), names[-1]}
        return pl.any_horizontal(pl.col(column).is_not_null() for column in read)

    def _blank_rows(self, table: str, index: int) -> int:
        file = self.opened[index]
        if isinstance(file, CsvFile):
            file.check_lines()
        blank = file.scan().select((~self._has_cells(table, index)).sum())
        return int(blank.collect(engine="streaming").item())

    @cached_property
    def _proved(self) -> set[str]:
        """The tables whose whole numbers are known to be such."""
        return set()

    def _require_whole(self, table: str) -> None:
        """Raise DataError at the first cell that should hold a whole number and holds something else."""
        for index in self.indices(table):
            types, used = self.opened[index].columns, self._used(table, index)
            columns = {name: column for name, column in used.items() if name in self.WHOLE}
            bad = {
                name: self.place(index).filter(
                    text(pl.col(column), types[column]).is_not_null() & whole(pl.col(column), types[column]).is_null()
                )
                for name, column in columns.items()
            }
            if bad:
                first = self.opened[index].scan().select(place.min().alias(name) for name, place in bad.items())
                for name, place in first.collect(engine="streaming").row(0, named=True).items():
                    if place is not None:
                        what = f"column '{columns[name]}' holds no whole number"
                        raise DataError(f"{self.locate(table, place)}: {what}; write that cell anew, or leave it empty")


def looked_up(rows: pl.LazyFrame, others: pl.LazyFrame | pl.DataFrame, *on: str) -> pl.LazyFrame:
    """`rows`, in their order, with the columns of the one row of `others` that is equal in `on`, a null to a null."""
    return rows.join(others.lazy(), on=list(on), how="left", nulls_equal=True, maintain_order="left")


def whole(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A cell as Int64; null where it is none. Text such as 9201.0 is one."""
    if dtype == _TEXT:
        cell = text(cell, dtype).cast(pl.Float64, strict=False)
    exact = cell.cast(pl.Int64, strict=False)
    return pl.when(exact.cast(pl.Float64) == cell.cast(pl.Float64)).then(exact)


def text(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A cell as text without the blanks around it; null where it holds nothing."""
    if dtype.is_float():
        cell = cell.fill_nan(None)
    cell = cell.cast(pl.String).str.strip_chars()
    return pl.when(~cell.is_in(["", *NOTHING])).then(cell)


def _with_quotes(file: CsvFile | ParquetFile) -> CsvFile | ParquetFile:
    return file if isinstance(file, ParquetFile | TabFile) else replace(file, plain=False)
