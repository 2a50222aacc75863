"""Which rows of a partition's diagnoses, medications and procedures can be used, and why the others cannot.
Each is counted under one reason, with the place of the first."""

from collections.abc import Callable
from typing import Any

import polars as pl

from ckd.ehr.frames import left_join
from ckd.ehr.text import clean

NO_VISIT, UNKNOWN_VISIT = "no visit id", "unknown admission"
NO_DRUG, NO_CODE, UNKNOWN_VERSION = "empty drug", "no code", "unknown icd_version"

Describe = Callable[[pl.DataFrame], pl.DataFrame]


def coded(rows: pl.DataFrame, describe: Describe, admissions: pl.DataFrame) -> pl.DataFrame:
    """Diagnoses or procedures with `admission` (its number), `name`, `mask` (bit of the label, 0: none) and `reason`,
    and with `mapped` and `outcomes` where `describe` gives them. A title in the row is the name, else the code's title.
    `admissions`: visit, admission."""
    # Distinct codes are described once; rows find theirs by one integer, several times faster than by two texts.
    version = pl.col("version").to_physical().cast(pl.UInt64).fill_null(2**32 - 1)
    rows = rows.with_columns(key=pl.col("code").to_physical().cast(pl.UInt64) * 2**32 + version)
    distinct = rows.select("key", "code", "version").filter(pl.col("key").is_not_null()).unique("key")
    distinct = distinct.with_columns(pl.col("code", "version").cast(pl.String))
    described = describe(distinct)
    if "label" not in described.columns:  # procedures have no label
        described = described.with_columns(label=pl.lit(None, pl.UInt8))
    mask = pl.lit(2, pl.UInt32).pow(pl.col("label")).cast(pl.UInt32).fill_null(0)
    blank = pl.col("normal").is_null()  # a code of white space
    outcomes = [name for name in described.columns if name in ("mapped", "outcomes")]
    kept = ("key", "known_version", *outcomes)
    meanings = described.select(*kept, blank=blank, meaning=_enum(described["title"]), mask=mask)
    rows = left_join(left_join(rows, meanings, "key"), admissions, "visit")
    no_code, no_version = pl.col("code").is_null() | pl.col("blank"), ~pl.col("known_version")
    reason = _visit_reason().when(no_code).then(pl.lit(NO_CODE)).when(no_version).then(pl.lit(UNKNOWN_VERSION))
    given = rows["title"].null_count() < rows.height
    name = pl.coalesce(clean(pl.col("title")), pl.col("meaning").cast(pl.String)) if given else pl.col("meaning")
    return rows.select("admission", "seq", "place", "mask", *outcomes, name=name, reason=reason)


def drugs(rows: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Medications with `admission`, `name` (the drug, white space cleaned) and `reason`."""
    rows = rows.with_columns(key=pl.col("drug").to_physical())
    distinct = rows.select("key", "drug").filter(pl.col("key").is_not_null()).unique("key")
    names = distinct.select("key", name=_enum(distinct.select(clean(pl.col("drug").cast(pl.String))).to_series()))
    rows = left_join(left_join(rows, names, "key"), admissions, "visit")
    reason = _visit_reason().when(pl.col("name").is_null()).then(pl.lit(NO_DRUG))
    return rows.select("admission", "start", "place", "name", reason=reason)


def used(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that can be used; where all can, without a copy."""
    return rows.filter(pl.col("reason").is_null()) if rows["reason"].count() else rows


def by_reason(rows: pl.DataFrame) -> dict[str, Any]:
    """{reason: {"rows", "place" of the first}} of the rows that have a reason."""
    found = rows.drop_nulls("reason").group_by("reason").agg(rows=pl.len(), place=pl.col("place").min())
    return {r.pop("reason"): r for r in found.sort("reason").to_dicts()}


def rejected(rows: pl.DataFrame) -> dict[str, Any]:
    """{"read", "used", "rejected": by_reason}, and also the used rows whose code has no title, and those that nothing
    orders (no start or sequence number)."""
    reasons = by_reason(rows)
    kept = rows.height - sum(r["rows"] for r in reasons.values())
    facts: dict[str, Any] = {"read": rows.height, "used": kept, "rejected": reasons}
    order = "start" if "start" in rows.columns else "seq"
    if rows[order].null_count():
        unordered = rows.filter(pl.col(order).is_null() & pl.col("reason").is_null())
        if unordered.height:
            facts["unordered"] = {"rows": unordered.height, "place": unordered["place"].min()}
    untitled = rows.filter(pl.col("name").is_null() & pl.col("reason").is_null())
    if untitled.height:
        facts["untitled"] = {"rows": untitled.height, "place": untitled["place"].min()}
    return facts


def _enum(names: pl.Series) -> pl.Series:
    """Text as numbers of its distinct values in order."""
    return names.cast(pl.Enum(names.drop_nulls().unique().sort()))


def _visit_reason() -> Any:
    visit, admission = (pl.col(name).is_null() for name in ("visit", "admission"))
    return pl.when(visit).then(pl.lit(NO_VISIT)).when(admission).then(pl.lit(UNKNOWN_VISIT))
