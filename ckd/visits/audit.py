"""Finds which shards of a stage are done, missing or damaged, and proves the values of its parts. Needs no model."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
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
    """One stage: the shards it should have, those that are done, and per damaged part the reason."""

    name: str
    wanted: tuple[Shard, ...]
    done: tuple[Shard, ...]
    damaged: dict[int, str]
    made_with: Mapping[str, Mapping[str, int]]  # library -> version -> parts, of the parts that are done

    @property
    def missing(self) -> list[int]:
        """Indices of the shards still to do."""
        there = {s.index for s in self.done} | set(self.damaged)
        return [s.index for s in self.wanted if s.index not in there]


def audit_stage(root: str, name: str, shards: list[Shard], hash_of: Callable[[Shard], str]) -> StageAudit:
    """The state of a stage by its footers: a done part is whole and was made from its shard as it is now.

    All parts must have one fingerprint. `hash_of` gives the hash of what a shard's part is made from.
    """
    stage = Stage(root, name, {})
    done, damaged, prints, made_with = [], {}, set(), []
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
            why = "made from other visits; delete it and run the stage again"
            damaged[shard.index] = f"{stage.path(shard.index)}: {why}"
            continue
        prints.add(digest(footer.fields))
        done.append(shard)
        made_with.append(footer.made_with)
    if len(prints) > 1:
        why = f"its parts have {len(prints)} different fingerprints; delete the folder and run the stage again"
        damaged[-1] = f"{stage.folder}: {why}"
    libraries = sorted({library for found in made_with for library in found})
    counted = {name: Counter(found.get(name) or "of unknown version" for found in made_with) for name in libraries}
    return StageAudit(name, tuple(shards), tuple(done), damaged, counted)


def audit_values(
    cohort: Cohort, audit: StageAudit, proves: Mapping[str, Callable[[pa.ChunkedArray], str]]
) -> Iterator[str]:
    """Problems in the values of the parts that are done, one line each.

    Visits are compared with their hashes, ids with the visits; `proves` names the check of a column.
    """
    stage = Stage(cohort.root, audit.name, {})
    for shard in audit.done:
        path = stage.path(shard.index)
        try:
            table = stage.read(shard.index)
            visits = cohort.read(shard, ["visit_id"])
        except ArtifactError as error:
            yield str(error)
            continue
        if audit.name == VISITS and not _as_prepared(table, shard, cohort):
            yield f"{path}: its rows are not those that were prepared; delete it and run 'ckd run' again"
            continue
        if table["visit_id"] != visits["visit_id"]:
            yield f"{path}: its visit_ids are not those of its visits shard"
        for column, check in proves.items():
            if column in table.column_names and (problem := check(table[column])):
                yield f"{path}: {column} {problem}"


def audit_strays(cohort: Cohort, name: str) -> Iterator[str]:
    """Parquet files in a stage's folder without a shard: who reads the whole folder would get their visits twice."""
    stage = Stage(cohort.root, name, {})
    owned = {stage.path(shard.index).rpartition("/")[2] for shard in cohort.shards}
    for file in list_files(stage.folder, ".parquet"):
        if file not in owned and not file.startswith("_"):  # readers of a folder skip "_"
            yield f"{stage.folder}/{file}: belongs to no shard of the visits; delete it"


def audit_ids(cohort: Cohort) -> Iterator[str]:
    """A line when visit_ids are more than once in the cohort. Costs 8 bytes per visit, as 64-bit hashes."""
    found = [np.empty(0, np.uint64)]
    for shard in cohort.shards:
        with suppress(ArtifactError):  # damaged: audit_values says so
            column = cohort.read(shard, ["visit_id"])["visit_id"].to_pylist()
            found.append(np.fromiter(map(hash64, column), np.uint64))
    ids = np.concatenate(found)
    repeated = len(ids) - len(np.unique(ids))
    if repeated:
        yield f"{Stage(cohort.root, VISITS, {}).folder}: {repeated} visit_ids stand more than once"


def _as_prepared(table: pa.Table, shard: Shard, cohort: Cohort) -> bool:
    labels = len(cohort.task)
    if not table.schema.equals(visit_schema(labels, cohort.subgroups)) or not table.num_rows:
        return False
    visits = list(from_table(table))
    return describe(shard.index, visits) == shard and table["group"] == to_table(visits, labels)["group"]


def finite(column: pa.ChunkedArray) -> str:
    """What is wrong with a list column of numbers: null, infinite, NaN."""
    return _nulls(column) or _wrong(np.isfinite(flat(column)), "values that are not finite")


def probability(column: pa.ChunkedArray) -> str:
    """What is wrong with a list column of probabilities: null, or outside 0..1."""
    values = flat(column)
    inside = (values >= 0) & (values <= 1)  # false for NaN
    return _nulls(column) or _wrong(inside, "values outside 0..1")


def token_ids(column: pa.ChunkedArray) -> str:
    """What is wrong with a list column of token ids: null, empty, below 0."""
    valid = flat(column) >= 0  # false for null, which is NaN here
    return _nulls(column) or _wrong(lengths(column) != 0, "visits without a token") or _wrong(valid, "values below 0")


def _wrong(valid: np.ndarray, what: str) -> str:
    return "" if valid.all() else f"has {int((~valid).sum())} {what}"


def _nulls(column: pa.ChunkedArray) -> str:
    return f"has {column.null_count} visits without a value" if column.null_count else ""
