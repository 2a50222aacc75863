"""What is there and whether it is whole: per stage the shards done and missing, and a proof over the values. Needs no model and no torch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ckd.errors import ArtifactError
from ckd.store.artifacts import Stage
from ckd.store.files import digest, list_files
from ckd.visits.cohort import STAGE as VISITS
from ckd.visits.cohort import Cohort, describe
from ckd.visits.columns import flat, lengths
from ckd.visits.visit import Shard, from_table, hash64, to_table, visit_schema


@dataclass(frozen=True)
class StageAudit:
    """One stage: the shards it should have, those that are there and belong to their visits, and its damaged parts with the reason."""

    name: str
    wanted: tuple[Shard, ...]
    done: tuple[Shard, ...]
    damaged: dict[int, str]

    @property
    def missing(self) -> list[int]:
        """Indices of the shards still to do."""
        there = {s.index for s in self.done} | set(self.damaged)
        return [s.index for s in self.wanted if s.index not in there]


def audit_stage(root: str, name: str, shards: list[Shard], hash_of: Callable[[Shard], str]) -> StageAudit:
    """Read the footers only: a part counts when it is whole, was made from its shard as it is now, and shares the others' fingerprint.

    `hash_of` gives the hash of what a shard's part is made from.
    """
    stage = Stage(root, name, {})
    done, damaged, prints = [], {}, set()
    present = set(stage.indices())
    for shard in shards:
        if shard.index not in present:
            continue
        try:
            footer = stage.footer(shard.index)
        except ArtifactError as error:
            damaged[shard.index] = str(error)
            continue
        if footer is None or (footer.rows, footer.input_hash) != (shard.rows, hash_of(shard)):
            damaged[shard.index] = (
                f"{stage.path(shard.index)}: made from other visits; delete it and run the stage again"
            )
            continue
        prints.add(digest(footer.fields))
        done.append(shard)
    if len(prints) > 1:
        damaged[-1] = (
            f"{stage.folder}: its parts have {len(prints)} different fingerprints; delete the folder and run the stage again"
        )
    return StageAudit(name, tuple(shards), tuple(done), damaged)


def audit_values(
    cohort: Cohort, audit: StageAudit, proves: Mapping[str, Callable[[pa.ChunkedArray], str]]
) -> Iterator[str]:
    """Problems in the values of the parts that are there, one line each: visits against their hashes, ids against the visits, and what `proves`
    finds in a column."""
    stage = Stage(cohort.root, audit.name, {})
    for shard in audit.done:
        table = stage.read(shard.index)
        if audit.name == VISITS and not _as_prepared(table, shard):
            yield f"{stage.path(shard.index)}: its rows are not those that were prepared; delete it and run 'ckd run' again"
            continue
        if table["visit_id"] != cohort.read(shard, ["visit_id"])["visit_id"]:
            yield f"{stage.path(shard.index)}: its visit_ids are not those of its visits shard"
        for column, check in proves.items():
            if column in table.column_names and (problem := check(table[column])):
                yield f"{stage.path(shard.index)}: {column} {problem}"


def audit_strays(cohort: Cohort, name: str) -> Iterator[str]:
    """Parquet files in a stage's folder that no shard of the cohort owns: whoever reads the folder would meet their visits twice."""
    stage = Stage(cohort.root, name, {})
    owned = {stage.path(shard.index).rpartition("/")[2] for shard in cohort.shards}
    for file in list_files(stage.folder, ".parquet"):
        if file not in owned and not file.startswith("_"):  # readers of a folder pass over "_"
            yield f"{stage.folder}/{file}: belongs to no shard of the visits; delete it"


def audit_ids(cohort: Cohort) -> Iterator[str]:
    """A visit_id that stands more than once in the cohort, as 64-bit hashes: 8 bytes per visit."""
    hashed = [
        np.fromiter(map(hash64, cohort.read(shard, ["visit_id"])["visit_id"].to_pylist()), np.uint64)
        for shard in cohort.shards
    ]
    ids = np.concatenate(hashed)
    repeated = len(ids) - len(np.unique(ids))
    if repeated:
        yield f"{Stage(cohort.root, VISITS, {}).folder}: {repeated} visit_ids stand more than once"


def _as_prepared(table: pa.Table, shard: Shard) -> bool:
    if not table.schema.equals(visit_schema()) or not table.num_rows:
        return False
    visits = list(from_table(table))
    return describe(shard.index, visits) == shard and table["group"] == to_table(visits)["group"]


def finite(column: pa.ChunkedArray) -> str:
    """What is wrong with a list column of numbers: null, infinite, NaN."""
    values = flat(column)
    return _nulls(column) or (
        "" if np.isfinite(values).all() else f"has {int((~np.isfinite(values)).sum())} values that are not finite"
    )


def probability(column: pa.ChunkedArray) -> str:
    """What is wrong with a list column of probabilities: null, or outside 0..1."""
    values = flat(column)
    inside = (values >= 0) & (values <= 1)  # false for NaN
    return _nulls(column) or ("" if inside.all() else f"has {int((~inside).sum())} values outside 0..1")


def token_ids(column: pa.ChunkedArray) -> str:
    """What is wrong with a list column of token ids: null, empty, below 0."""
    empty = int((lengths(column) == 0).sum())
    valid = flat(column) >= 0  # false for null, which is NaN here
    if problem := _nulls(column):
        return problem
    if empty:
        return f"has {empty} visits without a token"
    return "" if valid.all() else f"has {int((~valid).sum())} values below 0"


def _nulls(column: pa.ChunkedArray) -> str:
    return f"has {column.null_count} visits without a value" if column.null_count else ""
