"""The cells of a column that is written plainly, as expressions that run inside the scan; values.py takes the others
apart. Calls from Python on small batches cost more than the parsing itself, so a batch without an odd cell has none."""

from collections.abc import Callable

import polars as pl

from ckd.ehr.canonical import TIME
from ckd.ehr.values import OLDEST, PLAIN_TIME, within
from ckd.visits.subgroups import NOTHING

Plain = tuple[pl.Expr, pl.Expr]  # what the column is worth, and which of its cells need a closer look
DIED = "expired"  # of which an empty cell is counted too: nobody says that the patient lived
IDS, FLAGS = ("visit_id", "subject_id"), (DIED, "newborn")
TIMES = ("start", "end", "birth", "death", "dod")
NUMBERS = ("seq", "anchor_age", "anchor_year")
NAMES = ("age", "sex", "ethnicity", "insurance", "admission_type", "cut")


def plain(name: str, dtype: pl.DataType) -> Plain | None:
    """The plain reading of canonical column `name` of that type; None where every cell needs a closer look."""
    cell = pl.col(name)
    if dtype == pl.String:
        return _text(name)(cell)
    if name in TIMES and (dtype == pl.Date or (isinstance(dtype, pl.Datetime) and not dtype.time_zone)):
        return cell.cast(TIME), ~within(cell.cast(TIME))
    if name in FLAGS and dtype == pl.Boolean:
        return cell.fill_null(False), cell.is_null() if name == DIED else pl.lit(False)
    if dtype.is_integer() and name in IDS:
        return cell.cast(pl.String), pl.lit(False)
    return None


def _text(name: str) -> Callable[[pl.Expr], Plain]:
    kinds = {**dict.fromkeys(IDS, _id), **dict.fromkeys(TIMES, _time), **dict.fromkeys(NUMBERS, _number)}
    kinds |= {**dict.fromkeys(FLAGS, _flag), **dict.fromkeys(NAMES, _name)}
    return {**kinds, "age": _age, "anchor_age": _whole_age, DIED: _died}.get(name, _any)


def _unread(cell: pl.Expr, value: pl.Expr) -> pl.Expr:
    return value.is_null() & cell.is_not_null()


def _id(cell: pl.Expr) -> Plain:
    return cell, _unread(cell, cell.cast(pl.Int64, strict=False))


def _time(cell: pl.Expr) -> Plain:
    value = cell.str.to_datetime(PLAIN_TIME, strict=False, time_unit="us", ambiguous="null")
    return value, _unread(cell, value) | ~within(value)


def _number(cell: pl.Expr) -> Plain:
    value = cell.cast(pl.Float64, strict=False).cast(pl.Int32, strict=False)
    return value, _unread(cell, value)


def _flag(cell: pl.Expr) -> Plain:
    return (cell == "1").fill_null(False), ~cell.is_in(["0", "1"])


def _died(cell: pl.Expr) -> Plain:
    return (cell == "1").fill_null(False), ~cell.is_in(["0", "1"]).fill_null(False)


def _age(cell: pl.Expr) -> Plain:
    return cell, cell.is_not_null() & ~cell.cast(pl.Float64, strict=False).is_between(0, OLDEST).fill_null(False)


def _whole_age(cell: pl.Expr) -> Plain:
    return _number(cell)[0], _age(cell)[1]


def _name(cell: pl.Expr) -> Plain:
    return cell, cell.is_in(["", *NOTHING]) | (cell.str.strip_chars() != cell)


def _any(cell: pl.Expr) -> Plain:
    return cell, cell.is_in(["", *NOTHING])
