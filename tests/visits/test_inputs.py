"""Rows of public JSONL and of Parquet: what is read, what is refused, and that nothing of a row is quoted."""

import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.errors import DataError
from ckd.visits.inputs import BadRow, Input
from ckd.visits.labels import CCS25, DISEASES, NUM_LABELS, OUTPUT_PREFIX
from ckd.visits.rows import MAX_LINE, RowError, parse_line
from ckd.visits.visit import Visit, to_table
from testbed.rows import MARKER, as_json, row, visits, write_jsonl

GOOD = row(0, (DISEASES[0],))


def read(path, source="train"):
    return list(Input(str(path), source, CCS25).rows())


@given(visits)
def test_a_visit_survives_the_way_through_a_json_line(visit):
    assert parse_line(json.dumps(as_json(visit)).encode(), "train", 0, CCS25) == visit
    assert parse_line(json.dumps(as_json(visit), ensure_ascii=False).encode(), "train", 0, CCS25) == visit


@given(st.lists(visits, min_size=1, max_size=5))
def test_visits_survive_the_way_through_parquet(tmp_path_factory, found):
    found = [replace(visit, split=visit.split or "train", line=line) for line, visit in enumerate(found, start=1)]
    path = tmp_path_factory.mktemp("parquet") / "visits.parquet"
    pq.write_table(to_table(found, len(CCS25)), path)
    assert read(path) == found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


@given(st.binary() | json_values.map(lambda v: json.dumps(v).encode()))
@example(b"[" * 100_000)
@example(b"9" * 5000)
@example(b'{"a": ' * 50_000)
@example(b"\xff\xfe{\x00}\x00")
def test_any_bytes_are_a_visit_or_a_reason(data):
    try:
        assert isinstance(parse_line(data, "train", 1, CCS25), Visit)
    except RowError as error:
        assert str(error)


fields = st.sampled_from(
    ["instruction", "input", "output", "visit_id", "subject_id", "split", "current_labels", "prediction_time", "age"]
)


@given(st.dictionaries(fields, json_values), st.data())
def test_any_object_is_a_visit_or_a_reason(changes, data):
    dropped = data.draw(st.sets(fields))
    changed = {name: value for name, value in {**GOOD, **changes}.items() if name not in dropped}
    try:
        visit = parse_line(json.dumps(changed).encode(), "train", 1, CCS25)
        to_table([replace(visit, split="train")], len(CCS25))
    except RowError as error:
        assert str(error)


@given(st.lists(st.binary(max_size=30) | st.just(json.dumps(GOOD).encode()), max_size=8))
def test_every_line_that_is_not_blank_is_one_row(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + b"\n".join(lines))
    expected = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
    assert len(read(path)) == expected


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


BAD_LINES = {
    b"\xff" + json.dumps(GOOD).encode(): "not UTF-8",
    json.dumps(GOOD).encode()[:-5]: "broken JSON",
    f'"{MARKER}"'.encode(): "not a JSON object",
    json.dumps(GOOD)[:-1].encode() + b', "input": "again"}': "JSON with a repeated key",
    json.dumps({**GOOD, "age": float("nan")}).encode(): "JSON with NaN or Infinity",
    b" " * MAX_LINE + json.dumps(GOOD).encode(): "line of more than 16 MiB",
    **{json.dumps(without(name)).encode(): f"field '{name}' is missing" for name in ("instruction", "input", "output")},
    json.dumps({**GOOD, "input": " \n"}).encode(): "field 'input' is empty",
    json.dumps({**GOOD, "input": None}).encode(): "field 'input' is not a string",
    json.dumps({**GOOD, "instruction": 7}).encode(): "field 'instruction' is not a string",
    json.dumps({**GOOD, "input": MARKER + "\ud800"}).encode(): "field 'input' is not valid Unicode",
    **{
        json.dumps({**GOOD, "output": output}).encode(): "field 'output' names no disease; \"None\" is the empty set"
        for output in ("", " \n", OUTPUT_PREFIX, OUTPUT_PREFIX.strip(), OUTPUT_PREFIX + " ,")
    },
    json.dumps({**GOOD, "output": MARKER}).encode(): "field 'output' names a disease that is none of the 25 labels",
    json.dumps(
        {**GOOD, "output": "None, Shock"}
    ).encode(): "field 'output' names a disease that is none of the 25 labels",
    json.dumps({**GOOD, "split": "test"}).encode(): "field 'split' is none of train, tuning, held_out",
    json.dumps({**GOOD, "visit_id": 1.5}).encode(): "field 'visit_id' is neither a string nor an integer",
    json.dumps({**GOOD, "visit_id": True}).encode(): "field 'visit_id' is neither a string nor an integer",
    json.dumps({**GOOD, "subject_id": ""}).encode(): "field 'subject_id' is empty",
    json.dumps({**GOOD, "current_labels": "Shock"}).encode(): "field 'current_labels' is not a list of disease names",
    json.dumps(
        {**GOOD, "current_labels": [MARKER]}
    ).encode(): "field 'current_labels' names a disease that is none of the 25 labels",
    json.dumps({**GOOD, "prediction_time": 3}).encode(): "field 'prediction_time' is not a string",
    json.dumps({**GOOD, "sex": [MARKER]}).encode(): "field 'sex' is not a string",
}


@pytest.mark.parametrize(("number", "reason"), list(enumerate(BAD_LINES.values())), ids=lambda v: str(v))
def test_a_bad_line_is_located_and_says_why_without_quoting_it(tmp_path, number, reason):
    bad = list(BAD_LINES)[number].replace(b"visit 0", MARKER.encode())
    path = tmp_path / "rows.json"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + bad + b"\n" + json.dumps(GOOD).encode())
    first, found, last = read(path)
    assert isinstance(first, Visit) and isinstance(last, Visit) and last.line == 4
    assert found == BadRow(f"{path}:3", reason)
    assert MARKER not in reason


def test_none_is_the_empty_set_and_null_is_unlabeled():
    assert parse_line(json.dumps(row(1)).encode(), "train", 1, CCS25).labels == (False,) * NUM_LABELS
    assert parse_line(json.dumps(row(1, output=None)).encode(), "train", 1, CCS25).labels is None


def test_gzip_a_byte_order_mark_crlf_and_integer_ids_are_read(tmp_path):
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps({**GOOD, "subject_id": 10006}).encode() + b"\r\n\r\n"))
    (visit,) = read(path, "tuning")
    assert (visit.subject_id, visit.source, visit.line, visit.visit_id) == ("10006", "tuning", 1, "")


def parquet_columns(n):
    return {"instruction": ["i"] * n, "input": [f"visit {k}" for k in range(n)], "labels": [[True] * NUM_LABELS] * n}


def test_a_parquet_row_that_is_not_utf8_or_has_24_labels_costs_only_itself(tmp_path):
    columns = parquet_columns(4)
    columns["labels"] = [[True] * 24, None, [None] * 26, [False] * NUM_LABELS]
    texts = pa.array([b"a", b"\xff" + MARKER.encode(), b"c", b"d"], pa.binary()).cast(pa.string(), safe=False)
    path = tmp_path / "visits.parquet"
    pq.write_table(pa.table({**columns, "input": texts}), path)
    found = read(path)
    assert found[:3] == [
        BadRow(f"{path}:1", "field 'labels' is not a list of 25 booleans"),
        BadRow(f"{path}:2", "field 'input' is not valid Unicode"),
        BadRow(f"{path}:3", "field 'labels' is not a list of 25 booleans"),
    ]
    assert isinstance(found[3], Visit)


def test_a_folder_of_parts_is_read_in_order_and_rows_are_located_in_their_part(tmp_path):
    for part, number in enumerate((3, 2)):
        columns = parquet_columns(number)
        columns["labels"][-1] = [True]
        pq.write_table(
            pa.table({**columns, "subject_id": [7] * number, "unknown": [1] * number}),
            tmp_path / f"part-{part}.parquet",
        )
    source = Input(str(tmp_path), "held_out", CCS25)
    found = list(source.rows())
    assert [r.location for r in found if isinstance(r, BadRow)] == [
        f"{tmp_path}/part-0.parquet:3",
        f"{tmp_path}/part-1.parquet:2",
    ]
    assert [r.line for r in found if isinstance(r, Visit)] == [1, 2, 4]
    assert {r.subject_id for r in found if isinstance(r, Visit)} == {"7"}
    assert [source.locate(line) for line in (3, 4)] == [f"{tmp_path}/part-0.parquet:3", f"{tmp_path}/part-1.parquet:1"]


def test_timestamps_categories_and_missing_numbers_of_parquet_become_text(tmp_path):
    path = tmp_path / "visits.parquet"
    times = pa.array([0, None], pa.timestamp("ns"))
    more = {"prediction_time": times, "age": pa.array([63, None]), "sex": pa.array(["F", "M"]).dictionary_encode()}
    pq.write_table(pa.table({**parquet_columns(2), **more, "insurance": [float("nan"), 1.0]}), path)
    first, second = read(path)
    assert first.prediction_time.startswith("1970-01-01") and second.prediction_time is None
    assert (first.subgroups, second.subgroups) == ({"age": "63", "sex": "F"}, {"sex": "M", "insurance": "1.0"})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.json", b"", "holds no rows"),
        ("rows.json", b"\n  \n", "holds no rows"),
        ("rows.json", b'[{"instruction": "' + MARKER.encode() + b'"}]', "one object per line"),
        ("rows.csv", b"a,b", "unsupported kind"),
        ("rows.json.gz", b"not gzip " + MARKER.encode(), "its name says gzip, but it is text"),
        ("rows.gz", gzip.compress(json.dumps(GOOD).encode() * 9)[:-9], "cannot be read to its end"),
        ("rows.parquet", MARKER.encode(), "its name says Parquet, but it is text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and says in message and "\n" not in message and MARKER not in message


def test_missing_paths_folders_and_columns_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent.json")
    with pytest.raises(DataError, match=r"a folder without \.parquet parts"):
        read(tmp_path)
    pq.write_table(pa.table({"input": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column instruction, labels"):
        read(tmp_path)


def test_the_content_hash_follows_bytes_and_not_names(tmp_path):
    first, second, other = (
        write_jsonl(tmp_path / f"{name}.json", [found]) for name, found in (("a", GOOD), ("b", GOOD), ("c", row(1)))
    )
    assert (
        Input(first, "train", CCS25).content_hash()
        == Input(second, "tuning", CCS25).content_hash()
        != Input(other, "train", CCS25).content_hash()
    )
