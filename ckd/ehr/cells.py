"""A source column -> a canonical column, from the text cells of a CSV file or the typed ones of Parquet.
A code is text and is never taken from a number, which has lost its leading zeros."""

from collections.abc import Sequence

import polars as pl

from ckd.ehr.canonical import TIME
from ckd.errors import DataError

_TEXT_ONLY = {"code": "a number has lost its leading zeros", "drug": "", "title": ""}
_TIMES = ("start", "end", "birth", "death")
_NUMBERS = ("seq", "anchor_age", "anchor_year")
_FLAGS = ("expired", "newborn")
_YES, _NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")


def column(name: str, source: str, dtype: pl.DataType, formats: Sequence[str], where: str) -> pl.Expr:
    """Canonical column `name` from column `source` of that type; times, numbers and flags that are unreadable are null.

    Raises DataError (`where`: file) for a type that cannot hold what is wanted.
    """
    if name in _TIMES:
        return _time(source, dtype, formats, where)
    if name in _NUMBERS:
        return _number(source, dtype, where)
    if name in _FLAGS:
        return _flag(source, dtype, where)
    return _text(name, source, dtype, where)


def is_given(source: str, dtype: pl.DataType) -> pl.Expr:
    """Whether a cell holds anything."""
    given = pl.col(source).is_not_null()
    return given & (pl.col(source).str.len_bytes() > 0) if dtype == pl.String else given


def _text(name: str, source: str, dtype: pl.DataType, where: str) -> pl.Expr:
    cell = pl.col(source)
    if isinstance(dtype, pl.Categorical | pl.Enum):
        cell, dtype = cell.cast(pl.String), pl.String()
    if dtype == pl.String:
        return pl.when(cell.str.len_bytes() > 0).then(cell)
    if dtype == pl.Null or (dtype.is_integer() and name not in _TEXT_ONLY):
        return cell.cast(pl.String)
    if name == "age" and dtype.is_float():
        return cell.floor().cast(pl.Int64, strict=False).cast(pl.String)
    if name == "cut" and (dtype == pl.Boolean or dtype.is_temporal()):
        return cell.cast(pl.String)
    reason = _TEXT_ONLY.get(name) if dtype.is_numeric() else ""
    raise _refused(source, dtype, "text" if name in _TEXT_ONLY else "text or whole numbers", where, reason)


def _time(source: str, dtype: pl.DataType, formats: Sequence[str], where: str) -> pl.Expr:
    cell = pl.col(source)
    if dtype == pl.String:
        if len(formats) > 1:
            cell = cell.str.replace("T", " ", literal=True).str.strip_suffix("Z")
        parsed = [cell.str.to_datetime(form, strict=False, time_unit="us", ambiguous="null") for form in formats]
        return pl.coalesce(parsed) if len(parsed) > 1 else parsed[0]
    if isinstance(dtype, pl.Datetime):
        return (cell.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if dtype.time_zone else cell).cast(TIME)
    if dtype in (pl.Date, pl.Null):
        return cell.cast(TIME)
    raise _refused(source, dtype, "a timestamp, a date or text such as 2150-01-31 09:30:00", where)


def _number(source: str, dtype: pl.DataType, where: str) -> pl.Expr:
    if dtype == pl.String or dtype == pl.Null or dtype.is_numeric():
        # pandas writes whole numbers as 1.0 beside gaps.
        return pl.col(source).cast(pl.Float64, strict=False).cast(pl.Int32, strict=False)
    raise _refused(source, dtype, "whole numbers", where)


def _flag(source: str, dtype: pl.DataType, where: str) -> pl.Expr:
    cell = pl.col(source)
    if dtype == pl.Boolean:
        return cell.fill_null(False)
    if dtype == pl.String or dtype == pl.Null or dtype.is_integer():
        # Few distinct values, so the text of a number is cheap.
        text = cell.cast(pl.String).str.to_lowercase().fill_null("0")
        return pl.when(text.is_in(_YES)).then(True).when(text.is_in([*_NO, ""])).then(False)
    raise _refused(source, dtype, "true or false", where)


def _refused(source: str, dtype: pl.DataType, expected: str, where: str, reason: str | None = "") -> DataError:
    because = f" ({reason})" if reason else ""
    return DataError(f"{where}: column '{source}' is {dtype}, expected {expected}{because}; write that column anew")
