"""The visit: its record, its Parquet schema, and the group that must stay in one split."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

from ckd.visits.task import Labels

if TYPE_CHECKING:
    import pyarrow as pa

Split = Literal["train", "tuning", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "tuning", "held_out")
Source = Literal["train", "tuning", "held_out"]  # which of data.train / data.tuning / data.held_out the row came from

UNREAD_FIELDS = ("system", "history", "tools")  # LLaMA-Factory puts them into its prompts
SUBGROUP_FIELDS = ("age", "sex", "ethnicity", "insurance", "admission_type")


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit. `labels` (of the next visit) and `current_labels` have one value per label of the task in its order.

    None is unknown, a whole list as well as one value in it; a list without a known value is None.
    """

    visit_id: str
    instruction: str
    input: str
    labels: Labels | None
    subject_id: str | None = None
    split: Split | None = None
    current_labels: Labels | None = None
    prediction_time: str | None = None
    subgroups: dict[str, str] = field(default_factory=dict)
    source: Source = "train"
    line: int = 0  # 1-based line (JSONL) or row (Parquet) in its source; keeps public files aligned
    unread: dict[str, int] = field(default_factory=dict)  # its row's fields UNREAD_FIELDS that hold something: a hash

    @property
    def group(self) -> int:
        """64-bit key of what must stay in one split: the subject, or without one the identical input."""
        return group_key(self.subject_id, self.input)


def group_key(subject_id: str | None, text: str) -> int:
    """The unit of splitting and cross-fitting, as an unsigned 64-bit hash."""
    return hash64("subject", subject_id) if subject_id is not None else hash64("input", text)


def hash64(*parts: object) -> int:
    """An unsigned 64-bit hash (BLAKE2b) of the parts' text, the same in every process and on every machine."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


@cache
def visit_schema(labels: int, more: tuple[str, ...] = ()) -> "pa.Schema":
    """The columns of a part of stage `visits` of so many labels, which is also a valid Parquet input.
    `more`: subgroups beside SUBGROUP_FIELDS."""
    import pyarrow as pa

    flags = pa.list_(pa.bool_(), labels)
    return pa.schema(
        [
            pa.field("visit_id", pa.string(), nullable=False),
            pa.field("subject_id", pa.string()),
            pa.field("split", pa.string(), nullable=False),
            pa.field("instruction", pa.string(), nullable=False),
            pa.field("input", pa.string(), nullable=False),
            pa.field("labels", flags),
            pa.field("current_labels", flags),
            pa.field("prediction_time", pa.string()),
            *(pa.field(name, pa.string()) for name in (*SUBGROUP_FIELDS, *more)),
            pa.field("group", pa.uint64(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("line", pa.int64(), nullable=False),
        ]
    )


def to_table(visits: Iterable[Visit], labels: int, more: tuple[str, ...] = ()) -> "pa.Table":
    """Visits that have a split, as one Arrow table of `visit_schema(labels, more)`."""
    import pyarrow as pa

    visits = list(visits)
    columns = {name: [visit.subgroups.get(name) for visit in visits] for name in (*SUBGROUP_FIELDS, *more)}
    schema = visit_schema(labels, more)
    for name in schema.names:
        if name not in columns:
            columns[name] = [getattr(visit, name) for visit in visits]
    return pa.table(columns, schema=schema)


def from_table(table: "pa.Table") -> Iterator[Visit]:
    """The visits of a table of `visit_schema(…)` (inverse of to_table)."""
    fixed = visit_schema(0).names
    groups = [name for name in table.column_names if name in SUBGROUP_FIELDS or name not in fixed]
    for row in table.to_pylist():
        row.pop("group")
        row["subgroups"] = {name: value for name in groups if (value := row.pop(name)) is not None}
        for name in ("labels", "current_labels"):
            row[name] = None if row[name] is None else tuple(row[name])
        yield Visit(**row)


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of the plan: part `index` of stage `visits`. Its visits share a split and are all labelled or all not."""

    index: int
    rows: int
    split: Split
    labeled: bool
    text_hash: str  # visit_ids, instructions and inputs in order: all that the teacher reads
    content_hash: str  # every column in order
