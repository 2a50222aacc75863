"""Every table split into partitions by a hash of the subject, so that each later step needs one partition in memory.
Costs one streaming pass over each table."""

import math
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ckd.ehr.canonical import CELLS, EMPTY_BITS, ODD, PLACE_BITS, SCHEMAS, SUSPECT, TABLE_NAMES, UNREADABLE
from ckd.ehr.frames import made_aside
from ckd.ehr.labeltables import UNREADABLE as UNREADABLE_LABEL
from ckd.ehr.source import Source
from ckd.errors import ArtifactError, ConfigError, DataError
from ckd.store.artifacts import Fields, FolderArtifact
from ckd.store.files import BLOCK
from ckd.store.filesystems import is_local
from ckd.store.unwritable import writing

FORMAT = 4  # raise it when the same tables give other frames
_PARTITION_BYTES = 400_000_000  # of CSV text: about 110,000 visits of 32 rows, about 1 GB of memory in a worker
_PACKED = {".gz": 6, ".zst": 7, ".parquet": 8}  # CSV text per byte of such a file, about
_MOST = 4096
_KEY = "partition"
_REPEATED = ("code", "version", "drug")  # few distinct texts in many rows: stored and read as numbers of them


def partition(source: Source, folder: str, partitions: int) -> list[int]:
    """Write all tables of `source` into `folder` (local), whole subjects together; returns each partition's admissions.

    `partitions` 0: by the size of the files. Done before with the same fields: nothing is read. The folder appears
    whole. Raises DataError for damaged files, a visit id that is missing or there twice, a patient there twice;
    ArtifactError when not every row that was read is stored, MismatchError when the folder holds other tables.
    """
    if not is_local(folder):
        raise ConfigError(f"{folder}: the tables are partitioned on a local disk; give a local --out")
    count = partitions or _partitions_for(source)
    fields: Fields = {"format": FORMAT, "input": source.content_hash, "kind": source.kind}
    # The version too: polars' hash may change with it.
    fields = {**fields, "split_column": source.split_column, "partitions": count, "polars": pl.__version__}
    fields |= {"subgroups": ",".join(source.subgroups)} if source.subgroups else {}
    artifact = FolderArtifact(folder, fields)
    if not artifact.is_done():
        with made_aside(folder) as fresh:
            FolderArtifact(fresh, fields).commit([], _all_tables(source, fresh, count))
    return list(facts(folder)["stored"]["visits"])


def _all_tables(source: Source, folder: str, count: int) -> dict[str, Any]:
    """Write every table into `folder`; returns what `facts` says."""
    read = {}
    for table in TABLE_NAMES:
        read[table] = _write(source, table, folder, count)
        source, before = source.minding_quotes(_found(folder, table)), source
        if source is not before:
            shutil.rmtree(Path(folder) / table)
            read[table] = _write(source, table, folder, count)
    _require_ids(source, folder)
    checked = {table: _check(source, table, folder) for table in TABLE_NAMES}
    stored = {table: _heights(folder, table, count) for table in TABLE_NAMES}
    for table, heights in stored.items():
        if sum(heights) != read[table] or checked[table]["rows"] != read[table]:
            what = f"{sum(heights)} of {read[table]} rows of {table} were stored"
            raise ArtifactError(f"{folder}: {what}; is another program at work there? run the same command again")
    files = [file for table in TABLE_NAMES for file in _files(folder, table)]
    sums = {str(file.relative_to(folder)): _check_sum(file) for file in files}
    found = {"without_subject": _without_subject(folder), "last_time": _last_time(folder)}
    return {"tables": checked, "stored": stored, "sums": sums, **found}


def facts(folder: str) -> Mapping[str, Any]:
    """What `partition` counted.
    tables {table: {rows, blank_rows, cells}}, cells {column: {unread, empty}}, stored {table: [rows per partition]},
    sums {file: CRC-32}, without_subject, last_time
    (the latest discharge, ISO); unread, empty, without_subject: {rows, first place}."""
    content = FolderArtifact(folder, {}).load()
    if content is None:
        raise DataError(f"{folder}: the tables are not partitioned; run the same ingest again")
    return dict(content["extra"])


def read(folder: str, table: str, index: int) -> pl.DataFrame:
    """Partition `index` of a table in the source's order; columns and types as `stored` says.
    Raises ArtifactError unless every row is there."""
    schema, files, known = stored(table), _files(folder, table, index), facts(folder)
    try:
        changed = [file for file in files if _check_sum(file) != known["sums"].get(str(file.relative_to(folder)))]
        if changed:
            raise _damaged(folder, f"{changed[0].relative_to(folder)} changed since it was written")
        frames = [pl.DataFrame(schema=schema), *(pl.read_ipc(file, columns=list(schema)) for file in files)]
    except UNREADABLE as error:
        raise _damaged(folder, f"partition {index} of {table} cannot be read ({type(error).__name__})") from None
    rows, wanted = sum(frame.height for frame in frames), known["stored"][table][index]
    if rows != wanted:
        raise _damaged(folder, f"{rows} of {wanted} rows of {table} are left in partition {index}")
    return pl.concat(frames[1:] or frames, rechunk=True)


def _damaged(folder: str, what: str) -> ArtifactError:
    return ArtifactError(f"{folder}: {what}; delete that folder and run the same command again")


def stored(table: str) -> dict[str, pl.DataType]:
    """The columns of a partitioned table: SCHEMAS with repeated texts categorical and `visit` (visit_key) for joins.
    Only `visits` keeps visit_id itself."""
    schema = {name: pl.Categorical() if name in _REPEATED else dtype for name, dtype in SCHEMAS[table].items()}
    if "visit_id" in schema:
        schema["visit"] = pl.UInt64()
    if table != "visits":
        schema.pop("visit_id", None)
    return schema


def _check_sum(file: Path) -> int:
    """CRC-32, which shows every flipped bit, at the speed of the disk."""
    found = 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            found = zlib.crc32(block, found)
    return found


def _write(source: Source, table: str, folder: str, count: int) -> int:
    """How many rows were read; each is then in a partition's file."""
    heights: list[int] = []

    def counted(rows: pl.DataFrame) -> pl.DataFrame:
        heights.append(rows.height)
        return rows

    target = Path(folder) / table
    target.mkdir(parents=True)
    key = (pl.col("subject_id").hash() % count).cast(pl.UInt32).alias(_KEY)
    with source.explained(table), writing(folder):
        repeated = pl.col([name for name in _REPEATED if name in SCHEMAS[table]]).cast(pl.Categorical)
        rows = source.every(table).with_columns(key, repeated)
        if "visit_id" in SCHEMAS[table]:
            rows = rows.with_columns(visit=visit_key())
        rows = rows.select(*stored(table), SUSPECT, ODD, _KEY).map_batches(counted, streamable=True)
        rows.sink_ipc(pl.PartitionBy(target, key=_KEY, include_key=False), mkdir=True, sync_on_close="data")
    return sum(heights)


def visit_key() -> pl.Expr:
    """What joins tables: 64 bits of subject_id and visit_id together.

    So a row that names another subject than its admission has none, whatever partitions both are in. The seeds differ,
    or an id that is both would be 0.
    """
    return pl.when(pl.col("visit_id").is_not_null()).then(pl.col("visit_id").hash(seed=1) ^ pl.col("subject_id").hash())


def _files(folder: str, table: str, index: int | None = None) -> list[Path]:
    return sorted((Path(folder) / table).glob(f"{_KEY}={'*' if index is None else index}/*.ipc"))


def _scan(folder: str, table: str) -> pl.LazyFrame:
    files = _files(folder, table)
    if not files:
        return pl.LazyFrame(schema={**stored(table), SUSPECT: pl.Boolean(), ODD: pl.UInt32()})
    return pl.scan_ipc(files, hive_partitioning=False, glob=False)


def _found(folder: str, table: str) -> dict[int, dict[str, int]]:
    """Per source file: rows read, number of the last record, SUSPECT rows."""
    record = pl.col("place") & (1 << PLACE_BITS) - 1
    by_file = _scan(folder, table).group_by(file=pl.col("place") // (1 << PLACE_BITS))
    found = by_file.agg(rows=pl.len(), records=record.max(), suspects=pl.col(SUSPECT).sum()).collect(engine="streaming")
    return {row.pop("file"): row for row in found.to_dicts()}


def _check(source: Source, table: str, folder: str) -> dict[str, Any]:
    """Rows of a table, and how many more hold nothing. Raises DataError for lines that polars read wrongly."""
    found = _found(folder, table)
    with source.explained(table):
        blank = source.blank_rows(table, found)
    return {"rows": sum(row["rows"] for row in found.values()), "blank_rows": blank, "cells": _odd(table, folder)}


def _odd(table: str, folder: str) -> dict[str, dict[str, Any]]:
    """Per column the cells that were there and became null: those that cannot be read, and the words for nothing."""
    odd = _scan(folder, table).select(ODD, "place").filter(pl.col(ODD) > 0).group_by(ODD)
    seen = odd.agg(rows=pl.len(), place=pl.col("place").min()).collect(engine="streaming").to_dicts()
    found: dict[str, dict[str, Any]] = {}
    for bit, column in enumerate(CELLS[table]):
        for what, shift in (("unread", bit), ("empty", bit + EMPTY_BITS)):
            mine = [row for row in seen if row[ODD] >> shift & 1]
            if mine:
                counted = {"rows": sum(row["rows"] for row in mine), "place": min(row["place"] for row in mine)}
                found.setdefault(column, {})[what] = counted
    return found


def _require_ids(source: Source, folder: str) -> None:
    """Raise DataError if there is no admission, or one without an id, with a flag that is no flag, or there twice."""
    no_id = pl.col("visit_id").is_null()
    bad = _scan(folder, "visits").select(
        rows=pl.len(),
        no_id=no_id.sum(),
        no_id_place=pl.col("place").filter(no_id).min(),
        flag_place=pl.col("place").filter(pl.any_horizontal(pl.col("died", "newborn").is_null())).min(),
    )
    found = bad.collect(engine="streaming").row(0, named=True)
    unread = _scan(folder, "given").filter(pl.col("value") == UNREADABLE_LABEL).select(pl.col("place").min())
    if (place := unread.collect().item()) is not None:
        raise DataError(f"{source.locate('given', place)}: a given label is neither 0/1, true/false nor empty; mend it")
    if not found["rows"]:
        raise DataError(f"{source.folder}: there is no admission in it; {source.wanted('visits')}")
    if found["no_id"]:
        where, of = source.locate("visits", found["no_id_place"]), f"{found['no_id']} of {found['rows']} admissions"
        raise DataError(f"{where}: {of} have no visit id, so no next visit can be told; give each its own")
    if found["flag_place"] is not None:
        where = source.locate("visits", found["flag_place"])
        raise DataError(f"{where}: the flag for death or newborn is neither 0/1 nor true/false; mend it")
    _require_unique(source, folder, "visits", "visit_id", "visit ids")
    _require_unique(source, folder, "patients", "subject_id", "patients")


def _require_unique(source: Source, folder: str, table: str, column: str, called: str) -> None:
    rows = _scan(folder, table).filter(pl.col(column).is_not_null())
    hashes = rows.select(pl.col(column).hash()).collect(engine="streaming").to_series()
    if hashes.n_unique() == hashes.len():
        return
    suspects = hashes.filter(hashes.is_duplicated()).unique()
    again = rows.filter(pl.col(column).hash().is_in(suspects.implode())).group_by(column).agg(pl.col("place").sort())
    # Sorted by place, so that the message is the same in every run.
    repeated = again.filter(pl.col("place").list.len() > 1).sort(pl.col("place").list.first()).collect()
    if repeated.height:
        first, second = (source.locate(table, place) for place in repeated["place"][0][:2])
        what = f"{repeated.height} {called} are there more than once, the first one here and at {second}"
        raise DataError(f"{first}: {what}; keep one row for each")


def _heights(folder: str, table: str, count: int) -> Sequence[int]:
    """The rows in each partition's files, from their footers."""
    return [
        sum(pl.scan_ipc(file).select(pl.len()).collect().item() for file in _files(folder, table, index))
        for index in range(count)
    ]


def _without_subject(folder: str) -> dict[str, int | None]:
    nobody = _scan(folder, "visits").filter(pl.col("subject_id").is_null())
    found = nobody.select(rows=pl.len(), place=pl.col("place").min()).collect()
    return found.row(0, named=True)


def _last_time(folder: str) -> str | None:
    """The latest discharge that is not before its admission: until then the source tells what happens."""
    ends = _scan(folder, "visits").filter(pl.col("end") >= pl.col("start")).select(pl.col("end").max())
    found = ends.collect(engine="streaming").item()
    return None if found is None else str(found.isoformat())


def _partitions_for(source: Source) -> int:
    text = sum(size * _PACKED.get(Path(name).suffix.lower(), 1) for name, size in source.files.items())
    return min(_MOST, max(1, math.ceil(text / _PARTITION_BYTES)))
