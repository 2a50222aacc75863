"""The cells of one table in one file -> canonical columns, from the text of CSV or the types of Parquet; and which
became null on the way. A code is text and is never taken from a number, which has lost its leading zeros."""

from collections.abc import Mapping
from functools import reduce

import polars as pl

from ckd.ehr import values
from ckd.ehr.canonical import CELLS, EMPTY_BITS, ODD, TIME
from ckd.ehr.plain import DIED, FLAGS, IDS, NAMES, NUMBERS, TIMES, plain
from ckd.errors import DataError

_TEXT_ONLY = {"code": " (a number has lost its leading zeros)", "drug": "", "title": ""}
_OF_TEXT = {
    **dict.fromkeys(IDS, values.ids),
    **dict.fromkeys(TIMES, values.times),
    **dict.fromkeys(NUMBERS, values.numbers),
    **dict.fromkeys(NAMES, values.stripped),
    **dict.fromkeys(FLAGS, values.flags),
    "age": values.ages,
    "anchor_age": values.whole_ages,
}
_TIME = f"a timestamp, a date or text such as {values.TIME_WANTED} (for a number nobody knows what it counts)"
_TYPES = {
    **dict.fromkeys(TIMES, TIME),
    **dict.fromkeys(FLAGS, pl.Boolean()),
    **dict.fromkeys(NUMBERS, pl.Int32()),
}
_CELL, _LOOK = "\0cell", "\0look"  # extra columns while a batch is read; no source column can be called so


class Cells:
    """Reads frames whose columns have canonical names and cells as they are in the source.

    `columns`: canonical name -> (source column, its type). Raises DataError (`where`: the file) for a type that cannot
    hold what is wanted.
    """

    def __init__(self, table: str, columns: Mapping[str, tuple[str, pl.DataType]], where: str) -> None:
        self.columns = columns
        self._bits = {name: 1 << CELLS[table].index(name) for name in columns}
        for name, (source, dtype) in columns.items():
            if wanted := _misfit(name, dtype):
                because = _TEXT_ONLY.get(name, "") if dtype.is_numeric() else ""
                what = f"column '{source}' is {dtype}, expected {wanted}{because}"
                raise DataError(f"{where}: {what}; write that column anew")

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Canonical name -> type of what is read."""
        return {name: _TYPES.get(name, pl.String()) for name in self.columns}

    def rows(self, raw: pl.LazyFrame, *others: str) -> pl.LazyFrame:
        """The canonical columns, ODD and the `others` as they are."""
        known = {name: plain(name, dtype) for name, (_, dtype) in self.columns.items()}
        values = {name: pl.col(name) if found is None else found[0] for name, found in known.items()}
        look = [pl.lit(True) if found is None else found[1] for found in known.values()]
        rows = raw.select(
            **values,
            **{ODD: pl.lit(0, pl.UInt32), _LOOK: pl.any_horizontal(look).fill_null(False)},
            **{name + _CELL: pl.col(name) for name in self.columns},
            **{name: pl.col(name) for name in others},
        )
        types = {**self.schema, ODD: pl.UInt32(), **{name: raw.collect_schema()[name] for name in others}}
        names, cells = list(types), [name + _CELL for name in self.columns]

        def read(batch: pl.DataFrame) -> pl.DataFrame:
            if not batch[_LOOK].any():
                return batch[names]  # as it is; a select or rename would plan a query for every batch
            found = batch[cells]
            found.columns = list(self.columns)
            return self.read(found).hstack(batch[list(others)].get_columns())

        return rows.map_batches(read, schema=types, streamable=True)

    def read(self, raw: pl.DataFrame) -> pl.DataFrame:
        """The canonical columns and ODD."""
        found, odd = [], [pl.zeros(raw.height, pl.UInt32, eager=True)]
        for name, bit in self._bits.items():
            cells = raw[name]
            given = _given(name, cells)
            value = _value(name, given)
            found.append(value.alias(name))
            if name == DIED:
                odd.append(given.is_null().cast(pl.UInt32) * (bit << EMPTY_BITS))
            elif given.null_count() > cells.null_count():
                word = given.is_null() & cells.is_not_null() & (cells.cast(pl.String).str.strip_chars() != "")
                odd.append(word.cast(pl.UInt32) * (bit << EMPTY_BITS))
            if value.null_count():
                odd.append((value.is_null() & given.is_not_null()).cast(pl.UInt32) * bit)
        return pl.DataFrame([*found, reduce(lambda some, more: some | more, odd).alias(ODD)])


def unread(table: str, name: str) -> pl.Expr:
    """Whether a row's cell was there and could not be read."""
    return pl.col(ODD) & (1 << CELLS[table].index(name)) != 0


def _misfit(name: str, dtype: pl.DataType) -> str:
    """What is expected of a column whose type cannot hold it; "" for one that can."""
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Null):
        return ""
    if name in TIMES:
        fits, wanted = isinstance(dtype, pl.Datetime | pl.Date), _TIME
    elif name in NUMBERS:
        fits, wanted = dtype.is_numeric(), "whole numbers"
    elif name in FLAGS:
        fits, wanted = dtype.is_numeric() or dtype == pl.Boolean, "true or false"
    elif name in _TEXT_ONLY:
        fits, wanted = False, "text"
    else:
        value = name == "cut" and (dtype == pl.Boolean or dtype.is_temporal())
        fits, wanted = dtype.is_numeric() or value, "text or whole numbers"
    return "" if fits else wanted


def _given(name: str, cells: pl.Series) -> pl.Series:
    """The cells, null where one holds nothing; text of few distinct values as plain text."""
    if isinstance(cells.dtype, pl.Categorical | pl.Enum | pl.Null):
        cells = cells.cast(pl.String)
    if cells.dtype.is_float():
        return cells.fill_nan(None)
    if cells.dtype != pl.String:
        return cells
    return values.stripped(cells) if name in NAMES else values.without_words(cells)


def _value(name: str, cells: pl.Series) -> pl.Series:
    if cells.dtype == pl.String:
        parse = _OF_TEXT.get(name)
        return parse(cells) if parse else cells
    if name in TIMES:
        return values.within_years(_naive(cells))
    if name in NUMBERS:
        return cells.cast(pl.Float64).cast(pl.Int32, strict=False)
    if name in FLAGS:
        return (
            cells.fill_null(False)
            if cells.dtype == pl.Boolean
            else values.flags(cells.cast(pl.Float64).cast(pl.String))
        )
    if name == "age":
        return values.ages(cells.cast(pl.Float64).floor().cast(pl.Int64, strict=False).cast(pl.String))
    return values.whole(cells) if cells.dtype.is_numeric() else cells.cast(pl.String)


def _naive(cells: pl.Series) -> pl.Series:
    """Timestamps or dates without a time zone: one with a zone becomes UTC."""
    if isinstance(cells.dtype, pl.Datetime) and cells.dtype.time_zone:
        cells = cells.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return cells.cast(TIME)
