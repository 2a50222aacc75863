"""List columns of Arrow tables as numpy matrices and back, and the join of a part with its visits."""

from typing import TYPE_CHECKING

import numpy as np

from ckd.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import DTypeLike


def flat(column: "pa.ChunkedArray") -> np.ndarray:
    """The values of a list column, row after row, as stored. A null row has none."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values


def lengths(column: "pa.ChunkedArray") -> np.ndarray:
    """The number of values in each row of a list column [n]; NaN for a null row."""
    found: np.ndarray = column.combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    return found


def matrix(column: "pa.ChunkedArray", dtype: "DTypeLike | None" = np.float32) -> np.ndarray:
    """A column of fixed-size lists without nulls as [n, width]: a copy in `dtype`; with None as stored, read-only."""
    values = flat(column).reshape(len(column), column.type.list_size)
    return values if dtype is None else values.astype(dtype)


def cells(column: "pa.ChunkedArray") -> np.ndarray:
    """A column of label lists as float32 [n, L]: 1 true, 0 false, NaN unknown (a null value, or a null row)."""
    import pyarrow as pa

    rows = column.combine_chunks()
    if not rows.null_count and not rows.flatten().null_count:
        return matrix(column)
    values = rows.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    found = np.full((len(rows), column.type.list_size), np.nan, np.float32)
    found[rows.is_valid().to_numpy(zero_copy_only=False)] = values
    return found


def lists(
    values: np.ndarray, valid: np.ndarray | None = None, known: np.ndarray | None = None
) -> "pa.FixedSizeListArray":
    """A matrix [n, width] as a column of fixed-size lists of its dtype; rows that are not `valid` [n] are null, and so
    are values that are not `known` [n, width]."""
    import pyarrow as pa

    mask = None if valid is None else pa.array(~valid)
    flat = _bits(values, known) if values.dtype == bool else pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def _bits(values: np.ndarray, known: np.ndarray | None) -> "pa.BooleanArray":
    """A matrix of booleans as one flat array, bit by bit as Arrow keeps them: ten times as fast as pa.array."""
    import pyarrow as pa

    packed = [
        None if matrix is None else pa.py_buffer(np.packbits(matrix.reshape(-1), bitorder="little"))
        for matrix in (None if known is None or known.all() else known, values)
    ]
    return pa.Array.from_buffers(pa.bool_(), values.size, packed)


def joined(table: "pa.Table", visit_ids: "pa.Array | pa.ChunkedArray", where: str, *, more: bool = False) -> "pa.Table":
    """The rows of `table` that have these visit_ids, in their order.

    Raises ArtifactError naming `where` and a visit that is missing, or unless `more`, when it holds more than these.
    """
    import pyarrow.compute as pc

    places = pc.index_in(visit_ids, value_set=table["visit_id"].combine_chunks())
    lack = visit_ids.filter(pc.is_null(places))
    every = np.arange(len(table))
    if len(lack):
        reason = f"{len(lack)} of {len(visit_ids)} visits are missing, the first is {lack[0]}"
    elif not more and not np.array_equal(np.sort(places), every):
        reason = f"{len(table)} rows for {len(visit_ids)} visits"
    else:
        return table if np.array_equal(places, every) else table.take(places)
    raise ArtifactError(
        f"{where}: holds other visit_ids than the visits shard: {reason}; "
        "delete it and run the stage that makes it again"
    )
