"""A file that is something else than its name says is told what it is; Parquet may hold output sentences."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.errors import DataError
from ckd.visits.inputs import BadRow, Input
from ckd.visits.labels import CCS25, DISEASES
from testbed.rows import row

TEXT = json.dumps(row(1)).encode() + b"\n"


def parquet():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row(1)]), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", gzip.compress(TEXT), "its name says JSONL, but it is gzip; rename it to end in .json.gz"),
        ("a.json.gz", TEXT, "its name says gzip, but it is text; rename it to end in .json"),
        ("a.parquet", TEXT, "its name says Parquet, but it is text; rename it to end in .json"),
        ("a.jsonl", parquet(), "its name says JSONL, but it is Parquet; rename it to end in .parquet"),
        ("a.json", b"PK\x03\x04" + b"x" * 50, "but it is a zip archive; unpack it"),
        ("a.json", b"\x28\xb5\x2f\xfd" + b"x" * 50, "but it is zstd; unpack it"),
        ("a.json", TEXT.decode().encode("utf-16"), "but it is UTF-16 text; unpack it, or write it as UTF-8"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "fetch it with 'git lfs pull'"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_told_what_it_is(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (lambda given: list(given.rows()), lambda given: given.sample(1, 1)):
        with pytest.raises(DataError) as caught:
            read(Input(str(path), "train", CCS25))
        assert str(caught.value).startswith(f"{path}: ") and told in str(caught.value)


def test_an_output_sentence_in_parquet_is_read_as_in_jsonl(tmp_path):
    path = str(tmp_path / "a.parquet")
    rows = [row(1, (DISEASES[3],)), row(2), row(3, output=None)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = [visit.labels for visit in Input(path, "train", CCS25).rows()]
    assert found == [CCS25.encode([DISEASES[3]]), CCS25.encode([]), None]


def test_labels_and_an_output_that_say_different_things_are_a_bad_row(tmp_path):
    path = str(tmp_path / "a.parquet")
    same = {**row(1, (DISEASES[3],)), "labels": list(CCS25.encode([DISEASES[3]]))}
    pq.write_table(pa.Table.from_pylist([same, {**same, "output": row(2)["output"]}]), path)
    first, second = Input(path, "train", CCS25).rows()
    assert first.labels == CCS25.encode([DISEASES[3]])
    assert second == BadRow(f"{path}:2", "fields 'labels' and 'output' say different things")
