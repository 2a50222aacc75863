"""A source column -> a canonical column, from the text cells of a CSV file or the typed ones of Parquet.
A code is text and is never taken from a number, which has lost its leading zeros."""

from collections.abc import Sequence

import polars as pl

from ckd.ehr.canonical import TIME
from ckd.errors import DataError

_TEXT_ONLY = {"code": " (a number has lost its leading zeros)", "drug": "", "title": ""}
_TIMES = ("start", "end", "birth", "death")
_NUMBERS = ("seq", "anchor_age", "anchor_year")
_FLAGS = ("expired", "newborn")
_YES, _NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n", "")


def column(name: str, source: str, dtype: pl.DataType, formats: Sequence[str], where: str) -> pl.Expr:
    """Canonical column `name` from column `source` of that type; times, numbers and flags that are unreadable are null.
    Raises DataError (`where`: file) for a type that cannot hold what is wanted."""
    cell, because = pl.col(source), ""
    if name in _TIMES:
        found, wanted = _time(cell, dtype, formats), "a timestamp, a date or text such as 2150-01-31 09:30:00"
    elif name in _NUMBERS:
        found, wanted = _number(cell, dtype), "whole numbers"
    elif name in _FLAGS:
        found, wanted = _flag(cell, dtype), "true or false"
    else:
        found, wanted = _text(name, cell, dtype), "text" if name in _TEXT_ONLY else "text or whole numbers"
        because = _TEXT_ONLY.get(name, "") if dtype.is_numeric() else ""
    if found is None:
        what = f"column '{source}' is {dtype}, expected {wanted}{because}"
        raise DataError(f"{where}: {what}; write that column anew")
    return found


def is_given(source: str, dtype: pl.DataType) -> pl.Expr:
    """Whether a cell holds anything."""
    given = pl.col(source).is_not_null()
    return given & (pl.col(source).str.len_bytes() > 0) if dtype == pl.String else given


def _text(name: str, cell: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    if isinstance(dtype, pl.Categorical | pl.Enum):
        cell, dtype = cell.cast(pl.String), pl.String()
    if dtype == pl.String:
        return pl.when(cell.str.len_bytes() > 0).then(cell)
    if name == "age" and dtype.is_float():
        return cell.floor().cast(pl.Int64, strict=False).cast(pl.String)
    whole = dtype.is_integer() and name not in _TEXT_ONLY
    value = name == "cut" and (dtype == pl.Boolean or dtype.is_temporal())
    return cell.cast(pl.String) if dtype == pl.Null or whole or value else None


def _time(cell: pl.Expr, dtype: pl.DataType, formats: Sequence[str]) -> pl.Expr | None:
    if dtype == pl.String:
        if len(formats) > 1:
            cell = cell.str.replace("T", " ", literal=True).str.strip_suffix("Z")
        parsed = [cell.str.to_datetime(form, strict=False, time_unit="us", ambiguous="null") for form in formats]
        return pl.coalesce(parsed) if len(parsed) > 1 else parsed[0]
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        cell = cell.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return cell.cast(TIME) if isinstance(dtype, pl.Datetime | pl.Date | pl.Null) else None


def _number(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    # pandas writes whole numbers as 1.0 beside gaps.
    number = cell.cast(pl.Float64, strict=False).cast(pl.Int32, strict=False)
    return number if isinstance(dtype, pl.String | pl.Null) or dtype.is_numeric() else None


def _flag(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    if dtype == pl.Boolean:
        return cell.fill_null(False)
    # Few distinct values, so the text of a number is cheap.
    text = cell.cast(pl.String).str.to_lowercase().fill_null("0")
    flag = pl.when(text.is_in(_YES)).then(True).when(text.is_in(_NO)).then(False)
    return flag if isinstance(dtype, pl.String | pl.Null) or dtype.is_integer() else None
