"""A folder of visits is read whole or refused: every entry is accounted for."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.errors import DataError
from ckd.visits.datafolder import data_folder
from ckd.visits.inputs import BadRow, Input
from ckd.visits.labels import CCS25, NUM_LABELS
from jobs.cli import main

ROWS = 3


def columns(first, rows=ROWS):
    return {
        "instruction": ["i"] * rows,
        "input": [f"visit {first + number}" for number in range(rows)],
        "labels": [[False] * NUM_LABELS] * rows,
    }


def part(path, first=0, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns(first, rows)), path)


def texts(path):
    return [row.input for row in Input(str(path), "train", CCS25).rows()]


def file(name, text=""):
    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return make


REFUSED = {
    "another suffix of Parquet": (lambda f: part(f / "c.pq"), r"c\.pq: not a \.parquet part, so its rows would be"),
    "rows as JSONL": (file("e.jsonl", "{}\n"), r"e\.jsonl: not a \.parquet part"),
    "rows as CSV": (file("e.csv", "a\n"), r"e\.csv: not a \.parquet part"),
    "a file without a suffix": (file("000000_0"), "000000_0: not a"),
    "a folder beside parts": (lambda f: part(f / "more" / "b.parquet"), "more: a folder inside, whose files are not"),
    "an empty folder": (lambda f: (f / "more").mkdir(), "more: a folder inside"),
    "a dangling link": (lambda f: (f / "b.parquet").symlink_to(f / "gone"), r"b\.parquet: a link to nothing"),
    "Spark's unfinished": (lambda f: part(f / "_temporary" / "0" / "b.parquet"), "_temporary: left by a writer"),
    "an unfinished ingest": (file(".ckd-ingest-0123456789abcdef/x"), "left by an ingest that has not finished"),
    "Delta": (
        file("_delta_log/00000000000000000000.json"),
        r"a Delta table \(_delta_log\), its folder also holds",
    ),
    "Iceberg": (file("metadata/v1.metadata.json"), r"an Iceberg table \(metadata/\*\.metadata\.json\)"),
    "Hudi": (file(".hoodie/hoodie.properties"), r"a Hudi table \(\.hoodie\)"),
    "a Spark stream": (file("_spark_metadata/0"), "a Spark stream's table"),
    "Hive": (lambda f: part(f / "year=2020" / "b.parquet"), "a Hive layout, which keeps column 'year'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_left_out_or_read_wrongly_is_refused_by_name(tmp_path, what):
    makes, says = REFUSED[what]
    part(tmp_path / "a.parquet")
    makes(tmp_path)
    with pytest.raises(DataError, match=says) as refused:
        Input(str(tmp_path), "train", CCS25)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def test_parts_are_read_whatever_the_capitals_and_other_entries_are_named(tmp_path, capsys):
    for number, name in enumerate(("a.parquet", "b.PARQUET", "c.Parquet")):
        part(tmp_path / name, first=10 * number)
    (tmp_path / "d.parquet").symlink_to(tmp_path / "outside" / "x.parquet")
    part(tmp_path / "outside" / "x.parquet", first=30)
    shutil.move(tmp_path / "outside", tmp_path.parent / f"{tmp_path.name}-outside")
    (tmp_path / "d.parquet").unlink()
    (tmp_path / "d.parquet").symlink_to(tmp_path.parent / f"{tmp_path.name}-outside" / "x.parquet")
    others = ("_SUCCESS", ".a.parquet.crc", "_metadata", "README.md", "LICENSE")
    for name in others:
        (tmp_path / name).write_text("x")
    part(tmp_path / "_tmp-123.parquet")
    assert texts(tmp_path) == [f"visit {10 * number + row}" for number in range(4) for row in range(ROWS)]
    assert set(data_folder(str(tmp_path)).passed_over) == {*others, "_tmp-123.parquet"}
    main(["validate", str(tmp_path)])
    said = capsys.readouterr().out
    assert f"validate: {tmp_path}: 4 parts; 6 entries are no data: .a.parquet.crc, LICENSE, README.md, _SUCCESS" in said
    assert f"read {4 * ROWS}" in said


@pytest.mark.parametrize("name", ["A.PARQUET", "a.Jsonl.GZ", "a.JSON"])
def test_a_single_file_is_what_its_suffix_says_in_any_capitals(tmp_path, name):
    import gzip

    path = tmp_path / name
    row = json.dumps({"instruction": "i", "input": "visit 0", "output": "None"}).encode()
    if name == "A.PARQUET":
        part(path, rows=1)
    else:
        path.write_bytes(gzip.compress(row) if name.endswith("GZ") else row)
    assert texts(path) == ["visit 0"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([*columns(0).values(), ["x"] * ROWS], names=[*columns(0), "input"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: column 'input' is there twice"):
        texts(tmp_path)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    from ckd.ehr.synthetic import tables

    folder = tmp_path_factory.mktemp("cohort")
    tables.write_tables(str(folder / "tables"), 60, 3)
    words = ["ingest", "mimic3", str(folder / "tables"), "--out", str(folder / "out"), "ingest.partitions=3"]
    assert main([*words, "ingest.min_support=2"]) == 0
    return folder / "out"


def test_a_cohort_is_read_as_it_was_made_or_not_at_all(tmp_path, cohort):
    out = tmp_path / "out"
    shutil.copytree(cohort, out)
    source = Input(str(out), "train", CCS25)
    assert len(texts(out)) > 100 and source.lines() == [] and source.content_hash()
    name = out / "part-00001.parquet"
    whole = name.read_bytes()
    name.unlink()
    with pytest.raises(DataError, match=r"part-00001\.parquet: missing; run the same 'ckd ingest' again"):
        Input(str(out), "train", CCS25)
    name.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"part-00001\.parquet: no part of this cohort, or changed since"):
        Input(str(out), "train", CCS25)
    name.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(DataError, match=r"part-00001\.parquet: changed since the cohort was made"):
        Input(str(out), "train", CCS25).content_hash()
    name.write_bytes(whole)
    part(out / "extra.parquet")
    with pytest.raises(DataError, match=r"extra\.parquet: no part of this cohort"):
        Input(str(out), "train", CCS25)
    (out / "extra.parquet").unlink()
    (out / "artifact.json").unlink()
    with pytest.raises(DataError, match=r"parts of a cohort without its artifact\.json"):
        Input(str(out), "train", CCS25)


def test_a_cell_that_unpacks_to_a_hundred_megabytes_costs_its_row_and_little_memory(tmp_path):
    import subprocess
    import sys

    found = columns(0)
    found["input"][1] = "None " * (20 << 20)
    pq.write_table(pa.table(found), tmp_path / "a.parquet", compression="zstd", row_group_size=2)
    assert (tmp_path / "a.parquet").stat().st_size < 30_000
    rows = list(Input(str(tmp_path), "train", CCS25).rows())
    assert rows[1] == BadRow(f"{tmp_path}/a.parquet:2", "row of more than 16 MiB")
    assert [row.input for row in (rows[0], rows[2])] == ["visit 0", "visit 2"]
    assert Input(str(tmp_path), "train", CCS25).sample(9, 1).drawn == 3
    script = (
        "import sys; from ckd.visits.inputs import Input; from ckd.visits.labels import CCS25;"
        "list(Input(sys.argv[1], 'train', CCS25).rows());"
        # ru_maxrss would be this process's own where that is larger: a child inherits it.
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    used = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(used.stdout) < 1000 << 10  # kB


@pytest.mark.parametrize("dictionary", [True, False])
def test_many_rows_of_one_large_cell_are_not_unpacked_together(tmp_path, dictionary):
    from ckd.visits.parquetrows import _rows_at_once

    found = columns(0, 64)
    found["input"] = ["x" * (15 << 20)] * 64 if dictionary else [f"{n}" + "x" * (1 << 20) for n in range(64)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(found), path, compression="zstd", use_dictionary=dictionary)
    assert _rows_at_once(pq.read_metadata(path).row_group(0), list(found)) == 8
    assert [len(text) for text in texts(path)] == [len(text) for text in found["input"]]
