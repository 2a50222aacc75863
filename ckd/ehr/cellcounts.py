"""The cells that were there and became null, per column: how many, where the first is, and how it is written.
A cell is shown as its pattern alone, 9 for a digit and a for a letter, since it may hold a patient's words."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from ckd.ehr.canonical import BY_TIME, SEVERAL
from ckd.ehr.plain import DIED
from ckd.ehr.source import Source
from ckd.ehr.values import TIME_WANTED

_TIMES = ("start", "end", "birth", "death")
_LONGEST = 24
_NUMBER = re.compile(r"9{9,}(\.9*)?")  # seconds since 1970 and their like
UNREAD, EMPTY = "unread", "empty"


def unread_cells(source: Source, tables: Mapping[str, Any], locate: Callable[[str, int], str]) -> list[dict[str, Any]]:
    """One entry per table, column and kind (UNREAD, EMPTY: a word for nothing), most cells first. `tables`: those that
    `partition` counted. Reads the first unread cell of each column again, to say how it is written."""
    found = []
    for table, counts in tables.items():
        for name, kinds in counts["cells"].items():
            for kind, e in kinds.items():
                entry = {"table": table, "name": name, "kind": kind, "rows": e["rows"]}
                entry |= {"first": locate(table, e["place"]), "column": source.column(table, name, e["place"])}
                if kind == UNREAD and entry["column"]:
                    entry["written"] = pattern(source.cell(table, name, e["place"]))
                found.append(entry)
    return sorted(found, key=lambda e: (-e["rows"], e["table"], e["name"]))


def pattern(cell: str) -> str:
    """How a cell is written, without what it says."""
    shape = re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", cell))
    return shape[:_LONGEST] + ("…" if len(shape) > _LONGEST else "")


def cell_line(e: Mapping[str, Any]) -> str:
    """One entry for a person."""
    where = f"{e['table']}: {e['rows']:,}"
    if e["name"] == BY_TIME:
        return f"{where} rows without a visit id were given to the one stay that contains their time"
    if e["name"] == SEVERAL:
        return f"{where} rows without a visit id lie in several stays and belong to none (first: {e['first']})"
    where += f" cells of column '{e['column']}'"
    if e["kind"] == EMPTY and e["name"] == DIED:
        return f"{where} are empty: those patients count as having lived (first: {e['first']})"
    if e["kind"] == EMPTY:
        return f"{where} hold a word for nothing, such as NULL, and count as empty (first: {e['first']})"
    return f"{where} cannot be read and count as empty (first: {e['first']}, {written(e)})"


def written(e: Mapping[str, Any]) -> str:
    """How a cell that cannot be read is written, and how it should be."""
    if e["name"] not in _TIMES:
        return f"written {e['written']}"
    why = " (a number counts from a day that nobody knows)" if _NUMBER.fullmatch(e["written"]) else ""
    return f"written {e['written']}{why}, expected as {TIME_WANTED}"
