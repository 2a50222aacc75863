"""List columns and matrices are the same values in the same type; parts are joined to their visits by visit_id."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.errors import ArtifactError
from ckd.visits.columns import cells, flat, joined, lengths, lists, matrix


@pytest.mark.parametrize("dtype", [np.float16, np.float32, bool])
def test_a_matrix_comes_back_in_its_type_from_any_number_of_chunks(dtype):
    values = np.arange(15).reshape(5, 3).astype(dtype)
    for cuts in ([], [2], [2, 3]):
        column = pa.chunked_array([lists(part) for part in np.split(values, cuts)])
        assert matrix(column, None).dtype == dtype and (matrix(column, None) == values).all()
        assert matrix(column).dtype == np.float32 and matrix(column).flags.writeable
        assert (flat(column) == values.reshape(-1)).all() and lengths(column).tolist() == [3] * 5
    assert matrix(pa.chunked_array([], lists(values).type)).shape == (0, 3)


def test_rows_that_are_not_valid_are_null_and_a_matrix_with_nulls_is_refused():
    column = pa.chunked_array([lists(np.ones((3, 2), np.float32), np.array([True, False, True]))])
    assert column.to_pylist() == [[1, 1], None, [1, 1]]
    with pytest.raises(ValueError, match="reshape"):
        matrix(column)
    assert matrix(column.drop_null()).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (7, 25), (13, 283)])
def test_values_that_are_not_known_are_null_in_their_place(rows, width):
    rng = np.random.default_rng(rows)
    values, known = rng.random((2, rows, width)) < 0.5
    valid = rng.random(rows) < 0.7
    wanted = [[bool(v) if k else None for v, k in zip(*row, strict=True)] for row in zip(values, known, strict=True)]
    wanted = [row if there else None for row, there in zip(wanted, valid, strict=True)]
    assert lists(values, valid, known).to_pylist() == wanted


values_of = st.sampled_from([True, False, None])


@given(st.integers(1, 70), st.data())
def test_label_lists_are_one_or_zero_and_what_is_unknown_is_nan(width, data):
    row = st.one_of(st.none(), st.lists(values_of, min_size=width, max_size=width))
    found = data.draw(st.lists(row, max_size=5))
    parts = [found[:2], found[2:]]
    column = pa.chunked_array([pa.array(part, pa.list_(pa.bool_(), width)) for part in parts])
    expected = np.array([[None] * width if row is None else row for row in found], np.float32).reshape(-1, width)
    assert cells(column).dtype == np.float32 and cells(column).flags.writeable
    np.testing.assert_array_equal(cells(column), expected)


def test_the_bit_that_arrow_keeps_under_a_null_is_not_seen():
    valid, rng = np.arange(12) % 5 > 0, np.random.default_rng(0)
    first = rng.random(12) < 0.5
    second = np.where(valid, first, ~first)
    bits = [pa.array(v, mask=None).buffers()[1] for v in (first, second)]
    over = pa.array(valid).buffers()[1]
    found = [pa.FixedSizeListArray.from_arrays(pa.Array.from_buffers(pa.bool_(), 12, [over, b]), 3) for b in bits]
    np.testing.assert_array_equal(*(cells(pa.chunked_array([each])) for each in found))


def test_known_label_lists_are_the_same_as_a_matrix():
    flags = np.random.default_rng(0).random((40, 25)) < 0.3
    column = pa.chunked_array([lists(flags)])
    assert (cells(column) == matrix(column)).all()
    assert np.isnan(cells(column.slice(3, 2)[:0])).shape == (0, 25) and (cells(column.slice(3, 5)) == flags[3:8]).all()


def rows(ids):
    return pa.table({"visit_id": pa.array(ids, pa.string()), "place": list(range(len(ids)))})


@given(st.permutations(list("abcdef")))
def test_parts_in_another_order_are_joined_by_visit_id(found):
    wanted = list("abcdef")
    part = joined(rows(found), pa.array(wanted), "part")
    assert part["visit_id"].to_pylist() == wanted
    assert [found[place] for place in part["place"].to_pylist()] == wanted


@pytest.mark.parametrize("found", [["a"], ["a", "a"], ["a", "c"], ["a", "b", "c"], ["a", "b", "b"], []])
def test_other_visit_ids_are_refused(found):
    with pytest.raises(ArtifactError, match="part: holds other visit_ids"):
        joined(rows(found), pa.array(["a", "b"]), "part")


def test_a_table_of_more_visits_gives_those_that_are_asked_for():
    assert joined(rows(["c", "a", "b"]), pa.array(["a", "b"]), "part", more=True)["place"].to_pylist() == [1, 2]
    with pytest.raises(ArtifactError, match="1 of 2 visits are missing, the first is d;"):
        joined(rows(["a", "b"]), pa.array(["a", "d"]), "part", more=True)
