"""The rows of one Parquet file. Memory is bounded by bytes: a cell that unpacks to a gigabyte costs its row alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ckd.errors import DataError
from ckd.store.artifacts import FOOTER_KEY
from ckd.store.files import open_file
from ckd.visits.labels import CCS25
from ckd.visits.rows import CONVERSATIONS, MAX_LINE
from ckd.visits.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

TASK_MARK = b"ckd.task"  # of a Parquet schema: name and identity of the task, where it is not ccs25
TOO_LARGE = f"row of more than {MAX_LINE >> 20} MiB"
_BATCH_ROWS, _BATCH_BYTES = 1024, 64 << 20
_FEW = 8  # rows at once where the file's own figures do not bound what they hold
_USUAL_RATIO, _USUAL_PAGE = 200, 1 << 20  # of bytes unpacked to packed; of a dictionary, what writers allow
_ELEMENT = 16  # bytes that a list's element takes as a Python object, at least


def parquet_rows(
    path: str,
    wanted: Sequence[str],
    required: Sequence[str],
    task: Task,
    row_groups: Sequence[int] | None = None,
) -> Iterator[dict[str, Any] | None]:
    """Rows with the `wanted` columns that are there; None for a row of more than MAX_LINE bytes.

    Texts are bytes: one that is not UTF-8 costs its row and not the file. Raises DataError when a `required` column is
    missing, two have one name, or the labels are another task's; pyarrow's errors for a damaged file.
    """
    import pyarrow.parquet as pq

    with open_file(path) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        names = file.schema_arrow.names
        _require_columns(path, names, required)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{path}: column '{twice[0]}' is there twice; rename or remove one")
        if "labels" in wanted and (found := _other_task(file.schema_arrow, task)):
            raise DataError(
                f"{path}: holds {found}, the configured one is '{task.name}' with {len(task)}; "
                "give task.labels=… of the task that they belong to"
            )
        there = [name for name in wanted if name in names]
        for group in range(file.num_row_groups) if row_groups is None else row_groups:
            rows = _rows_at_once(file.metadata.row_group(group), there)
            for batch in file.iter_batches(rows, row_groups=[group], columns=there):
                yield from _rows(batch)


def _require_columns(path: str, names: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in names and not (name == "labels" and "output" in names)]
    if missing:
        held = next((f"; '{other}' is not read" for other in CONVERSATIONS if other in names), "")
        expected = f"expected {', '.join(required)} (labels null, or an output sentence in their place: null)"
        raise DataError(f"{path}: no column {', '.join(missing)}{held}; {expected}")


def mark(task: Task) -> dict[bytes, bytes]:
    """What a part says of its task beside its rows; nothing of ccs25."""
    return {} if task.identity == CCS25.identity else {TASK_MARK: f"{task.name} {task.identity}".encode()}


def other_task(path: str, task: Task) -> str:
    """The labels of a file in words where they are another task's; "" where they are this one's, or there are none."""
    import pyarrow.parquet as pq

    with open_file(path) as stream:
        return _other_task(pq.read_schema(stream), task)


def _other_task(schema: "pa.Schema", task: Task) -> str:
    """As `other_task`: by the mark of a part of ours, which is of ccs25 without one; else by the number of labels."""
    if "labels" not in schema.names:
        return ""
    said = schema.metadata or {}
    unmarked = f"{CCS25.name} {CCS25.identity}".encode() if FOOTER_KEY in said else b""
    name, _, identity = said.get(TASK_MARK, unmarked).decode(errors="replace").rpartition(" ")
    width = getattr(schema.field("labels").type, "list_size", len(task))
    if width == len(task) and identity in ("", task.identity):
        return ""
    named = f"'{name}', " if name else ""
    return f"labels of another task ({named}{width} labels)"


def _rows_at_once(group: Any, names: Sequence[str]) -> int:
    """How many rows of a row group may be unpacked together."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in names]
    size: int = max(sum(chunk.total_uncompressed_size for chunk in chunks), 1)
    packed = sum(chunk.total_compressed_size for chunk in chunks)
    dictionaries = [c.data_page_offset - c.dictionary_page_offset for c in chunks if c.dictionary_page_offset]
    if size > max(_USUAL_PAGE, _USUAL_RATIO * packed) or max(dictionaries, default=0) > _USUAL_PAGE:
        return _FEW
    rows: int = group.num_rows
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // size))


def _rows(batch: "pa.RecordBatch") -> Iterator[dict[str, Any] | None]:
    import pyarrow as pa

    batch = pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], names=batch.schema.names)
    sizes = _sizes(batch)
    together = batch.num_rows if sizes.sum() <= _BATCH_BYTES and not (sizes > MAX_LINE).any() else 1
    for start in range(0, batch.num_rows, max(together, 1)):
        if together == 1 and sizes[start] > MAX_LINE:
            yield None
        else:
            yield from batch.slice(start, together).to_pylist()


def _sizes(batch: "pa.RecordBatch") -> np.ndarray:
    """Bytes per row [rows], at least."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        kind = column.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            sizes += pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            sizes += _ELEMENT * pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return sizes


def _plain(column: "pa.Array") -> "pa.Array":
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type):
        return column.cast(pa.binary())
    if pa.types.is_large_string(column.type):
        return column.cast(pa.large_binary())
    return column.cast(pa.string()).cast(pa.binary()) if pa.types.is_temporal(column.type) else column
