"""A column's hash is of its values: a file and any chunking keep it, and other values have another."""

import io
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ckd.store.content import column_hashes

floats = st.floats(width=32, allow_nan=False)
KINDS = {
    pa.string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): floats,
    pa.timestamp("us"): st.integers(-(2**50), 2**50),
    pa.list_(pa.int32()): st.lists(st.integers(-9, 9), max_size=3),
    pa.list_(pa.string()): st.lists(st.none() | st.text(max_size=2), max_size=3),
    pa.list_(pa.bool_(), 2): st.lists(st.booleans(), min_size=2, max_size=2),
    pa.list_(pa.float16(), 2): st.lists(st.sampled_from([np.float16(0.5), np.float16(-2)]), min_size=2, max_size=2),
    pa.struct({"a": pa.string(), "b": pa.int8()}): st.fixed_dictionaries({"a": st.none() | st.text(max_size=2)}),
}
columns = st.sampled_from(list(KINDS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(st.none() | KINDS[kind], max_size=9))
)


def hashed(column) -> str:
    return column_hashes(pa.table({"c": column}))["c"]


def chunked(values, kind, cuts) -> pa.ChunkedArray:
    """The values in chunks, each a slice of a longer array."""
    padded = pa.array([None, *values, None], kind)
    edges = [0, *sorted({cut % (len(values) + 1) for cut in cuts}), len(values)]
    return pa.chunked_array([padded.slice(a + 1, b - a) for a, b in pairwise(edges)], kind)


@given(columns, st.lists(st.integers(0, 9), max_size=3), st.integers(1, 4))
@example((pa.list_(pa.bool_(), 2), [None, [True, False]]), [1], 1)
def test_a_hash_does_not_depend_on_chunks_or_on_a_file_between(column, cuts, rows):
    kind, values = column
    wanted = hashed(pa.array(values, kind))
    assert hashed(chunked(values, kind, cuts)) == wanted
    buffer = io.BytesIO()
    pq.write_table(pa.table({"c": chunked(values, kind, cuts)}), buffer, row_group_size=rows)
    assert hashed(pq.read_table(buffer)["c"]) == wanted


@given(columns, columns)
@example((pa.string(), ["ab", ""]), (pa.string(), ["a", "b"]))
@example((pa.list_(pa.int32()), [[1], []]), (pa.list_(pa.int32()), [[], [1]]))
@example((pa.string(), [None]), (pa.string(), [""]))
@example((pa.float32(), [0.0]), (pa.float32(), [-0.0]))
def test_other_values_have_another_hash(one, two):
    first, second = pa.array(one[1], one[0]), pa.array(two[1], two[0])
    assume(str(one) != str(two))
    assert hashed(first) != hashed(second) or first.equals(second)
