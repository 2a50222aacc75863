"""Text cells -> ids, times, numbers, flags and ages, the same for every layout.

Each function takes a Series of text and gives one of the same length, null where a cell is empty or cannot be read.
Plain columns do not come here (plain.py); here only the cells that fail one cast are taken apart, which costs ten times
as much. Nothing is guessed: day and month, epoch numbers, words for a time stay unread and are counted.
"""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from ckd.ehr.canonical import TIME
from ckd.visits.subgroups import NOTHING

TIME_WANTED = "2150-01-31 09:30:00"
PLAIN_TIME = "%Y-%m-%d %H:%M:%S"
_DAY = r"^(\d{4}[-/]\d{1,2}[-/]\d{1,2})"
_CLOCK = r"(?:(?:[Tt]| +)(\d{1,2}:\d{2})(:\d{2})?(?:[.,](\d+))?)?"
_ZONE = r" *(?:[Zz]|UTC|GMT|([+-])(\d{2}):?(\d{2})?)?$"
_GUID = r"^\{?([0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12})\}?$"
# "95 J.", "90+", "> 89", "61 years"; an age in months or days stays unread.
_AGE = r"^(?:(>)\s*|(?:>=|≥)\s*)?(\d{1,3}(?:\.\d+)?)\s*\+?\s*(?:y|yo|yrs?\.?|years?|J\.?|Jahre?|ans|años?|lat)?\s*\+?$"
_YES = ("1", "1.0", "true", "t", "yes", "y", "ja", "j", "oui", "si", "sí")
_NO = ("0", "0.0", "false", "f", "no", "n", "nein", "non", "")
OLDEST = 330  # years: MIMIC-III moves the birth of its oldest patients 300 years back
_YEARS = (1700, 3000)  # a time outside them stands for "unknown" or "not yet" (9999-12-31)
Read = Callable[[pl.Series], pl.Series]


def without_words(cells: pl.Series) -> pl.Series:
    """The cells, null where one is blank or a word for nothing."""
    nothing = cells.is_in(["", *NOTHING])
    return cells.set(nothing, None) if nothing.any() else cells


def stripped(cells: pl.Series) -> pl.Series:
    """Without the blanks around them, which columns of a fixed width have, and then without words for nothing."""
    return without_words(cells.str.strip_chars())


def ids(cells: pl.Series) -> pl.Series:
    """Ids as text that can be compared: 123.0 and " 123" are 123, a GUID is small letters without braces."""
    if cells.cast(pl.Int64, strict=False).null_count() == cells.null_count():
        return cells
    cells = stripped(cells)
    guid = pl.col("id").str.extract(_GUID).str.to_lowercase()
    whole = pl.col("id").str.extract(r"^(-?\d+)\.0*$")
    return cells.alias("id").to_frame().select(pl.coalesce(whole, guid, "id")).to_series()


def times(cells: pl.Series) -> pl.Series:
    """Year, month, day and the time of day in any ISO way; a date alone is its midnight, an offset leads to UTC."""
    return within_years(_plain_first(cells, _plain_time, _iso_time))


def is_day(cell: pl.Expr) -> pl.Expr:
    """Whether a text is a date alone."""
    return (cell.str.strip_chars().str.len_bytes() <= len("2150-01-31")).fill_null(False)


def within_years(found: pl.Series) -> pl.Series:
    """Times; null where the year stands for no time at all."""
    return found.alias("time").to_frame().select(pl.when(within(pl.col("time"))).then("time")).to_series()


def within(time: pl.Expr) -> pl.Expr:
    """Whether a time's year is one."""
    first, last = (pl.lit(datetime.fromisoformat(f"{year}-01-01"), TIME) for year in _YEARS)
    return time.is_between(first, last, closed="left")


def numbers(cells: pl.Series) -> pl.Series:
    """Whole numbers; pandas writes them as 1.0 beside gaps."""
    return _plain_first(cells, _number, lambda rest: _number(rest.str.strip_chars()))


def flags(cells: pl.Series) -> pl.Series:
    """True or false, an empty cell false; null where it is neither."""
    text = cells.str.strip_chars().str.to_lowercase().fill_null("0")
    return pl.select(pl.when(text.is_in(_YES)).then(True).when(text.is_in(_NO)).then(False)).to_series()


def ages(cells: pl.Series) -> pl.Series:
    """Years as text; more than 89 is 90."""
    return _plain_first(cells, _plain_age, _worded_age)


def whole_ages(cells: pl.Series) -> pl.Series:
    """Years as numbers."""
    return numbers(ages(cells))


def whole(found: pl.Series) -> pl.Series:
    """Numbers of any type as text without decimals; null where there are some, or so many digits that some are lost."""
    if found.dtype.is_integer():
        return found.cast(pl.String)
    number, exact = found.cast(pl.Float64), found.cast(pl.Int64, strict=False)
    frame = pl.DataFrame({"number": number, "exact": exact})
    fits = (pl.col("exact").cast(pl.Float64) == pl.col("number")) & (pl.col("number").abs() < 2**53)
    return frame.select(pl.when(fits).then(pl.col("exact").cast(pl.String))).to_series()


def _plain_first(cells: pl.Series, plain: Read, rest: Read) -> pl.Series:
    found = plain(cells)
    if found.null_count() == cells.null_count():
        return found
    failed = (found.is_null() & cells.is_not_null()).arg_true()
    return found.scatter(failed, rest(cells.gather(failed)))


def _plain_time(cells: pl.Series) -> pl.Series:
    return cells.str.to_datetime(PLAIN_TIME, strict=False, time_unit="us", ambiguous="null")


def _iso_time(cells: pl.Series) -> pl.Series:
    parts = cells.str.strip_chars().alias("cell").to_frame()
    parts = parts.select(pl.col("cell").str.extract_groups(_DAY + _CLOCK + _ZONE)).unnest("cell")
    day, clock, seconds, fraction, sign, hours, minutes = (pl.col(name) for name in parts.columns)
    text = pl.concat_str(
        day.str.replace_all("/", "-", literal=True), pl.lit(" "), clock.fill_null("00:00"), seconds.fill_null(":00")
    )
    micro = fraction.fill_null("0").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64)
    offset = hours.cast(pl.Int64) * 60 + minutes.fill_null("0").cast(pl.Int64)
    offset = pl.when(sign == "-").then(-offset).otherwise(offset).fill_null(0)
    time = text.str.to_datetime(PLAIN_TIME, strict=False, time_unit="us", ambiguous="null")
    return parts.select((time + pl.duration(microseconds=micro) - pl.duration(minutes=offset)).cast(TIME)).to_series()


def _number(cells: pl.Series) -> pl.Series:
    return cells.cast(pl.Float64, strict=False).cast(pl.Int32, strict=False)


def _plain_age(cells: pl.Series) -> pl.Series:
    frame = cells.alias("cell").to_frame()
    fits = pl.col("cell").cast(pl.Float64, strict=False).is_between(0, OLDEST)
    return frame.select(pl.when(fits).then("cell")).to_series()


def _worded_age(cells: pl.Series) -> pl.Series:
    parts = cells.str.strip_chars().alias("cell").to_frame()
    parts = parts.select(pl.col("cell").str.extract_groups(_AGE)).unnest("cell")
    more, years = (pl.col(name) for name in parts.columns)
    whole_years = years.cast(pl.Float64).floor().cast(pl.Int64) + (more == ">").fill_null(False).cast(pl.Int64)
    return parts.select(pl.when(whole_years <= OLDEST).then(whole_years.cast(pl.String))).to_series()
