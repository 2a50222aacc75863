"""The public input sentence for whole columns of visits: byte for byte what ckd.visits.grammar writes for one visit.

A `visit` is a row number, 0 .. count-1. Two things make it fast, measured against the obvious ways: sorting by one
column after the other, the most significant last (a polars sort by several columns at once takes seven times as long),
and joining lists, not strings in groups.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from ckd.ehr.frames import left_join
from ckd.visits.grammar import BETWEEN_NAMES, BETWEEN_TREATMENTS, EARLIER, INPUT, VISIT, treatment_clause
from ckd.visits.labels import DISEASES, NO_DISEASE

_LISTS = ("diseases", "drugs", "operations")
_SPACE = r"[\s\x1c-\x1f]+"  # what str.split() splits at: the separators \x1c-\x1f are no white space to polars


def clean(text: pl.Expr) -> pl.Expr:
    """White space collapsed and stripped, as " ".join(text.split()) does; null where nothing is left."""
    stripped = text.str.replace_all(_SPACE, " ").str.strip_chars(" ")
    return pl.when(stripped != "").then(stripped)


def ordered(rows: pl.DataFrame) -> pl.DataFrame:
    """The distinct names of each visit in order of first use: (visit, name), sorted by visit.

    `rows`: visit (UInt32), name (text or Enum, no nulls) and key (Int64): what sorts them, by visit first. Rows of
    equal key stay in their order.
    """
    name = pl.col("name") if rows.schema["name"] == pl.Enum else pl.col("name").cast(pl.Categorical)
    pair = pl.col("visit").cast(pl.UInt64) * 2**32 + name.to_physical()
    return rows.sort("key", maintain_order=True).select("visit", "name").filter(pair.is_first_distinct())


def inputs(
    count: int, diseases: pl.DataFrame, drugs: pl.DataFrame, operations: pl.DataFrame, clause: pl.Series
) -> pl.Series:
    """The inputs of `count` visits: names in the order of the frames (visit, name), then the clause ("": none)."""
    visits = _with_lists(count, diseases, drugs, operations).with_columns(clause=clause)
    return visits.select(pl.format(INPUT, *map(_or_none, (*_LISTS, "clause"))).alias("input")).to_series()


def sentences(count: int, diseases: pl.DataFrame, drugs: pl.DataFrame, operations: pl.DataFrame) -> pl.Series:
    """What an earlier visit's sentence is, for `count` stays: names in the order of the frames (visit, name)."""
    stays = _with_lists(count, diseases, drugs, operations)
    return stays.select(pl.format(VISIT, *map(_or_none, _LISTS)).alias("text")).to_series()


def with_earlier(texts: pl.Series, told: pl.Series, earlier: pl.DataFrame) -> pl.Series:
    """The inputs of visits with their earlier visits behind them.

    `told`: the sentence of each stay. `earlier`: visit, stay (its row in `told`), days; sorted by visit, latest first.
    """
    each = pl.DataFrame({"visit": earlier["visit"], "days": earlier["days"], "told": told.gather(earlier["stay"])})
    behind = each.select("visit", behind=pl.format(EARLIER, "days", "told"))
    behind = (
        behind.group_by("visit", maintain_order=True).agg(pl.col("behind")).with_columns(pl.col("behind").list.join(""))
    )
    visits = pl.DataFrame({"visit": pl.int_range(texts.len(), dtype=pl.UInt32, eager=True), "input": texts})
    visits = left_join(visits, behind, "visit")
    return visits.select(pl.col("input") + pl.col("behind").fill_null("")).to_series()


def clauses(current: pl.Series, table: Mapping[str, Sequence[str]]) -> pl.Series:
    """The treatment clause of each visit: its current labels that have a drug in `table`, in label order; "" for none.

    `current`: UInt32, bit k set = label k present. `table`: disease -> drugs.
    """
    present = pl.col("current")
    parts = [
        pl.when(present & (1 << k) > 0).then(pl.lit(treatment_clause({disease: table[disease]})))
        for k, disease in enumerate(DISEASES)
        if table.get(disease)
    ]
    clause = pl.concat_str(parts, separator=BETWEEN_TREATMENTS, ignore_nulls=True) if parts else pl.lit("")
    return pl.DataFrame({"current": current}).with_columns(clause=clause)["clause"]


def _with_lists(count: int, *named: pl.DataFrame) -> pl.DataFrame:
    """One row for each visit, with its three lists as text; null for none."""
    visits = pl.DataFrame({"visit": pl.int_range(count, dtype=pl.UInt32, eager=True)})
    for column, names in zip(_LISTS, named, strict=True):
        visits = left_join(visits, _listed(names, column), "visit")
    return visits


def _listed(names: pl.DataFrame, column: str) -> pl.DataFrame:
    rows = names.select("visit", pl.col("name").cast(pl.String)).sort("visit", maintain_order=True)
    lists = rows.group_by("visit", maintain_order=True).agg("name")
    return lists.select("visit", pl.col("name").list.join(BETWEEN_NAMES).alias(column))


def _or_none(column: str) -> pl.Expr:
    return pl.when(pl.col(column) != "").then(pl.col(column)).otherwise(pl.lit(NO_DISEASE))
