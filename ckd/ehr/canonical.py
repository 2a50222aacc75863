"""The canonical tables: what every source becomes. Cells are as in the source; an empty cell is null."""

from collections.abc import Mapping

import polars as pl

TIME = pl.Datetime("us")
PLACE_BITS = 40  # place = (file index << 40) | 1-based record of that file (the header of a CSV file is record 1)
_TEXT, _FLAG, _WHOLE, _PLACE = pl.String(), pl.Boolean(), pl.Int32(), {"place": pl.UInt64()}
_TIMES = {"start": TIME, "start_bad": _FLAG, "end": TIME, "end_bad": _FLAG}
_ATTRIBUTES = ("age", "sex", "ethnicity", "insurance", "admission_type", "cut")
_CODED = {"visit_id": _TEXT, "seq": _WHOLE, "code": _TEXT, "version": _TEXT, "title": _TEXT, **_PLACE}

SCHEMAS: Mapping[str, Mapping[str, pl.DataType]] = {
    "visits": {"visit_id": _TEXT, "subject_id": _TEXT, **_TIMES, "died": _FLAG, "newborn": _FLAG}
    | {**dict.fromkeys(_ATTRIBUTES, _TEXT), "dod": TIME, "groups": pl.List(_TEXT), **_PLACE},
    "patients": {"subject_id": _TEXT, "sex": _TEXT, "birth": TIME, "anchor_age": _WHOLE, "anchor_year": _WHOLE}
    | {"dod": TIME, "cut": _TEXT, "groups": pl.List(_TEXT), **_PLACE},
    "diagnoses": _CODED,
    "medications": {"visit_id": _TEXT, "start": TIME, "drug": _TEXT, **_PLACE},
    "procedures": _CODED,
    # Labels that the input holds, of a visit or of a time: 1, 0, null, or -1 for what cannot be read.
    "given": {
        "visit_id": _TEXT,
        "subject_id": _TEXT,
        "start": TIME,
        "label": pl.UInt16(),
        "value": pl.Int8(),
        **_PLACE,
    },
}
TABLE_NAMES = tuple(SCHEMAS)
# The columns of which every cell that became null is counted, in the order of the bits of ODD.
_IDS = ("visit_id", "subject_id")
BY_TIME, SEVERAL = "by_time", "several"  # no cells: a row without a visit id lies in one stay, or in several
CELLS: Mapping[str, tuple[str, ...]] = {
    "visits": (*_IDS, "start", "end", "death", "expired", "newborn", *_ATTRIBUTES, "dod"),
    "patients": ("subject_id", "sex", "birth", "anchor_age", "anchor_year", "cut", "dod"),
    "diagnoses": (*_IDS, "seq", "code", "version", "title"),
    "medications": (*_IDS, "start", "drug", BY_TIME, SEVERAL),
    "procedures": (*_IDS, "seq", "code", "version", "title"),
    "given": (*_IDS, "start"),
}
TITLES: Mapping[str, pl.DataType] = dict.fromkeys(("kind", "version", "code", "title"), _TEXT)
# What polars raises for a damaged file; its panics are no Exception.
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
ROW = "\0row"  # extra column of a file's raw rows, their 0-based number: no source column can be called so
# Extra column of Source.rows: bit k, cell k of CELLS cannot be read; bit 16 + k, it is a word for an empty cell.
ODD = "odd"
EMPTY_BITS = 16
SUSPECT = "suspect"  # extra column of Source.rows: the row may have too few cells, or has too many


def with_missing(rows: pl.LazyFrame, schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """`rows` and, as nulls, the columns of `schema` that they lack."""
    there = rows.collect_schema().names()
    return rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in there)
