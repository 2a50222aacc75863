"""The columns that `ingest.subgroups` names, as one list per visit: text in the order of the names, null where a cell
holds nothing. They are beside the cells of CELLS: nothing is parsed, and what is empty counts as unknown."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ckd.errors import ConfigError, DataError
from ckd.visits.subgroups import KEY, MOST_VALUES, NOTHING, require_groups

GROUPS = "groups"
Columns = Mapping[str, pl.DataType]


def listed(names: Sequence[str], columns: Columns) -> dict[str, pl.Expr]:
    """The column GROUPS of a file's rows; nothing where no name is asked for."""
    cells = [cell(name, columns[name]) if name in columns else pl.lit(None, pl.String) for name in names]
    return {GROUPS: pl.concat_list(cells)} if names else {}


def cell(column: str, dtype: pl.DataType) -> pl.Expr:
    """One cell as text: 3.0 is 3; null where it holds nothing."""
    value = pl.col(column).fill_nan(None) if dtype.is_float() else pl.col(column)
    text = value.cast(pl.String).str.strip_chars().str.replace(r"^(-?\d+)\.0+$", "$1")
    return pl.when(~text.is_in(["", *NOTHING])).then(text)


def require_columns(names: Sequence[str], known: Mapping[str, Columns], taken: Mapping[str, str], where: str) -> None:
    """Raise ConfigError for a name that is no column of text, numbers or flags of the tables `known`, or is an id, a
    time or a code. `taken`: source column -> what it is read as; `where`: the input."""
    for name in names:
        types = [columns[name] for columns in known.values() if name in columns]
        if not types:
            there = "; ".join(f"{table}: {', '.join(sorted(columns))}" for table, columns in known.items() if columns)
            raise ConfigError(f"{KEY}: '{name}' is no column of {where} ({there}); name one of these")
        if name in taken:
            raise ConfigError(f"{KEY}: column '{name}' of {where} is read as {taken[name]}, no group; leave it out")
        for dtype in types:
            if dtype.is_nested() or dtype.is_temporal() or dtype == pl.Binary:
                raise ConfigError(f"{KEY}: column '{name}' of {where} is {dtype}, expected text, numbers or true/false")


def of_visits(rows: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """GROUPS of visits, from the visit's own row, else from that of its patient (column `person_groups`)."""

    def nth(column: str, place: int) -> pl.Expr:
        return pl.col(column).list.get(place, null_on_oob=True)

    cells = [pl.coalesce(nth(GROUPS, k), nth("person_groups", k)) for k in range(len(names))]
    return rows.select(pl.concat_list(cells).alias(GROUPS)).to_series()


def counted(visits: pl.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Per subgroup the visits of each value (MOST_VALUES + 1 at most), all that have one, and their patients."""
    found = {}
    for place, name in enumerate(names):
        rows = visits.select("subject_id", value=pl.col(GROUPS).list.get(place)).drop_nulls("value")
        counts = rows["value"].value_counts().sort("value").head(MOST_VALUES + 1)
        values = {f"={value}": count for value, count in counts.iter_rows()}  # "=": `place` is a word of facts
        found[name] = {"values": values, "visits": rows.height, "patients": rows["subject_id"].n_unique()}
    return found


def require_of_groups(facts: Mapping[str, Any], where: str) -> None:
    """Raise DataError for a column that holds no groups. `facts`: the sums of `counted`."""
    for name, found in facts.items():
        if not found["values"]:
            raise DataError(f"{where}: {KEY}: column '{name}' is empty in every visit; leave it out")
        require_groups(name, [value[1:] for value in found["values"]], found["patients"], where)
