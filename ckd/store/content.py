"""Hashes of what a column holds, not of how it lies in memory or in a file: equal values have equal hashes.

Whether a column was cut into chunks, carries a null bitmap or keeps other values before its first, makes no difference.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def column_hashes(table: "pa.Table") -> dict[str, str]:
    """Column name -> hash of its values, nulls and number type. Costs about a second per gigabyte."""
    return {name: _column_hash(table[name]) for name in table.column_names}


def _column_hash(column: "pa.ChunkedArray") -> str:
    sha = hashlib.blake2b(digest_size=12)
    _feed(sha, column.type, column.chunks)
    return sha.hexdigest()


def _feed(sha: Any, kind: "pa.DataType", chunks: "list[pa.Array]") -> None:
    """Hash which rows are null, then how long they are where that differs, then the values, each over all chunks."""
    import pyarrow as pa

    types = pa.types
    for chunk in chunks:
        sha.update(chunk.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8))
    if types.is_dictionary(kind):
        _feed(sha, kind.value_type, [chunk.dictionary_decode() for chunk in chunks])
    elif types.is_struct(kind):
        for position, field in enumerate(kind):
            sha.update(field.name.encode())
            _feed(sha, field.type, [chunk.flatten()[position] for chunk in chunks])
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        sha.update(f"lists of {kind.list_size if types.is_fixed_size_list(kind) else 'any length'}".encode())
        for chunk in chunks:
            sha.update(_int64(chunk.value_lengths()))
        _feed(sha, kind.value_type, [chunk.flatten() for chunk in chunks])
    elif types.is_map(kind):
        raise TypeError("a part holds no maps")
    else:
        sha.update(str(kind).encode())
        _feed_plain(sha, kind, [chunk.drop_null() for chunk in chunks])


def _feed_plain(sha: Any, kind: "pa.DataType", chunks: "list[pa.Array]") -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    if types.is_null(kind):
        return
    if types.is_boolean(kind):
        for chunk in chunks:
            sha.update(chunk.to_numpy(zero_copy_only=False).astype(np.uint8))
        return
    if types.is_primitive(kind):
        width = kind.bit_width // 8
        for chunk in chunks:
            if len(chunk):
                sha.update(memoryview(chunk.buffers()[1])[chunk.offset * width : (chunk.offset + len(chunk)) * width])
        return
    for chunk in chunks:  # text or bytes
        sha.update(_int64(pc.binary_length(chunk)))
    for chunk in chunks:
        if len(chunk):
            wide = types.is_large_string(kind) or types.is_large_binary(kind)
            offsets = np.frombuffer(chunk.buffers()[1], np.int64 if wide else np.int32)
            start, end = offsets[chunk.offset], offsets[chunk.offset + len(chunk)]
            data = chunk.buffers()[2]
            sha.update(memoryview(data)[start:end] if data is not None else b"")


def _int64(lengths: "pa.Array") -> np.ndarray:
    found: np.ndarray = lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found
