"""Which rows of the diagnoses, medications and procedures of a partition can be used, and why the others cannot: each is counted under one
reason with the place of the first. What codes mean belongs to codes, which admissions count to pairs."""

from collections.abc import Callable
from typing import Any

import polars as pl

from ckd.ehr.text import clean

NO_VISIT, UNKNOWN_VISIT = "no visit id", "unknown admission"
NO_DRUG, NO_CODE, UNKNOWN_VERSION = "empty drug", "no code", "unknown icd_version"

Describe = Callable[[pl.DataFrame], pl.DataFrame]


def coded(rows: pl.DataFrame, describe: Describe, admissions: pl.DataFrame) -> pl.DataFrame:
    """Diagnoses or procedures with `admission` (its number), `name` (a given title wins over the code's), `mask` (bit of its label, 0: none) and
    `reason`. `admissions`: visit, admission.
    """
    # Distinct codes are described once; rows find theirs by one integer, which is several times faster than by two texts.
    version = pl.col("version").to_physical().cast(pl.UInt64).fill_null(2**32 - 1)
    rows = rows.with_columns(key=pl.col("code").to_physical().cast(pl.UInt64) * 2**32 + version)
    distinct = rows.select("key", "code", "version").filter(pl.col("key").is_not_null()).unique("key")
    distinct = distinct.with_columns(pl.col("code", "version").cast(pl.String))
    described = describe(distinct)
    if "label" not in described.columns:  # procedures have no label
        described = described.with_columns(label=pl.lit(None, pl.UInt8))
    mask = pl.lit(2, pl.UInt32).pow(pl.col("label")).cast(pl.UInt32).fill_null(0)
    blank = pl.col("normal").is_null()  # a code of white space
    meanings = described.select("key", "known_version", blank=blank, meaning=_enum(described["title"]), mask=mask)
    rows = _join(_join(rows, meanings, "key"), admissions, "visit")
    reason = (
        _visit_reason()
        .when(pl.col("code").is_null() | pl.col("blank"))
        .then(pl.lit(NO_CODE))
        .when(~pl.col("known_version"))
        .then(pl.lit(UNKNOWN_VERSION))
        .otherwise(None)
    )
    given = rows["title"].null_count() < rows.height
    name = pl.coalesce(clean(pl.col("title")), pl.col("meaning").cast(pl.String)) if given else pl.col("meaning")
    return rows.select("admission", "seq", "place", "mask", name=name, reason=reason)


def drugs(rows: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Medications with `admission`, `name` (the drug, white space cleaned) and `reason`. Cleans distinct names only: there are few thousands."""
    rows = rows.with_columns(key=pl.col("drug").to_physical())
    distinct = rows.select("key", "drug").filter(pl.col("key").is_not_null()).unique("key")
    names = distinct.select("key", name=_enum(distinct.select(clean(pl.col("drug").cast(pl.String))).to_series()))
    rows = _join(_join(rows, names, "key"), admissions, "visit")
    reason = _visit_reason().when(pl.col("name").is_null()).then(pl.lit(NO_DRUG)).otherwise(None)
    return rows.select("admission", "start", "place", "name", reason=reason)


def rejected(rows: pl.DataFrame) -> dict[str, Any]:
    """{"read", "used", "rejected": {reason: {"rows", "place"}}}, and beside them the used rows whose code has no title."""
    found = (
        rows.filter(pl.col("reason").is_not_null()).group_by("reason").agg(rows=pl.len(), place=pl.col("place").min())
    )
    reasons = {r["reason"]: {"rows": r["rows"], "place": r["place"]} for r in found.sort("reason").to_dicts()}
    facts: dict[str, Any] = {
        "read": rows.height,
        "used": rows.height - sum(r["rows"] for r in reasons.values()),
        "rejected": reasons,
    }
    untitled = rows.filter(pl.col("name").is_null() & pl.col("reason").is_null())
    if untitled.height:
        facts["untitled"] = {"rows": untitled.height, "place": untitled["place"].min()}
    return facts


def _enum(names: pl.Series) -> pl.Series:
    """Text as numbers of its distinct values in order."""
    return names.cast(pl.Enum(names.drop_nulls().unique().sort()))


def _join(rows: pl.DataFrame, other: pl.DataFrame, key: str) -> pl.DataFrame:
    return rows.join(other, on=key, how="left", maintain_order="left")


def _visit_reason() -> Any:
    return (
        pl.when(pl.col("visit").is_null())
        .then(pl.lit(NO_VISIT))
        .when(pl.col("admission").is_null())
        .then(pl.lit(UNKNOWN_VISIT))
    )
