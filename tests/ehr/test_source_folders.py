"""A source's folder is read whole: what may hold rows and would not be read is refused by name."""

import shutil

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.ehr.kinds import open_source
from ckd.errors import DataError
from tests.ehr.ehr_tables import as_tables, small_mimic3, write_meds, write_mimic3, write_mimic4, write_tables
from tests.ehr.test_meds import events


def refused(kind, folder, match):
    with pytest.raises(DataError, match=match) as found:
        open_source(kind, str(folder))
    assert "\n" not in str(found.value) and str(folder) in str(found.value)


def copied(name, other):
    return lambda folder: shutil.copy(folder / name, folder / other)


SECOND = {
    "packed": copied("ADMISSIONS.csv", "ADMISSIONS.csv.gz"),
    "in other capitals": copied("ADMISSIONS.csv", "admissions.CSV"),
    "as Parquet": copied("ADMISSIONS.csv", "admissions.parquet"),
    "packed otherwise": copied("ADMISSIONS.csv", "admissions.csv.bz2"),
    "as a folder": lambda folder: (folder / "admissions").mkdir(),
    "as a link to nothing": lambda folder: (folder / "admissions.csv.gz").symlink_to(folder / "gone"),
}


@pytest.mark.parametrize("what", SECOND)
def test_a_table_that_is_there_twice_is_refused_with_both_names(tmp_path, what):
    folder = write_mimic3(tmp_path / "tables", small_mimic3())
    SECOND[what](folder)
    refused("mimic3", folder, r"ADMISSIONS\.csv and admissions|[aA]\S+ and ADMISSIONS\.csv|ADMISSIONS\.csv and ADM")


def test_notes_about_a_table_are_no_table(tmp_path):
    folder = write_mimic3(tmp_path / "tables", small_mimic3())
    for name in ("admissions.md", "ADMISSIONS.csv.sha256", "._ADMISSIONS.csv", "admissions_old.csv"):
        (folder / name).write_text("x")
    assert open_source("mimic3", str(folder)).scan("visits").collect().height == 3


def test_tables_of_mimic_iv_beside_its_own_folder_are_refused(tmp_path):
    folder = write_mimic4(tmp_path / "tables", small_mimic3())
    inside = next(path for path in folder.rglob("*") if path.name.lower().startswith("admissions.csv"))
    assert inside.parent != folder
    shutil.copy(inside, folder / "admissions.csv")
    refused("mimic4", folder, r"admissions\.csv and hosp/")


def test_a_table_in_capitals_is_the_parquet_that_its_name_says(tmp_path):
    folder = write_tables(tmp_path / "tables", as_tables(small_mimic3()))
    wanted = open_source("tables", str(folder)).scan("diagnoses").drop("place").collect()
    (folder / "DIAGNOSES.PARQUET").unlink(missing_ok=True)
    pl.read_csv(folder / "diagnoses.csv", infer_schema=False).write_parquet(folder / "DIAGNOSES.PARQUET")
    (folder / "diagnoses.csv").unlink()
    found = open_source("tables", str(folder)).scan("diagnoses").drop("place").collect()
    assert found.equals(wanted) and found.height > 2


PARTS = {
    "another suffix": (lambda f: (f / "b.pq").write_text("x"), r"b\.pq: not a \.csv or \.parquet part"),
    "a folder inside": (lambda f: (f / "more").mkdir(), "more: a folder inside"),
    "Delta": (lambda f: (f / "_delta_log").mkdir(), "a Delta table"),
    "Hive": (lambda f: (f / "year=2020").mkdir(), "a Hive layout"),
    "a link to nothing": (lambda f: (f / "b.csv").symlink_to(f / "gone"), r"b\.csv: a link to nothing"),
}


@pytest.mark.parametrize("what", PARTS)
def test_a_table_of_parts_is_read_whole_or_refused(tmp_path, what):
    makes, says = PARTS[what]
    folder = write_tables(tmp_path / "tables", as_tables(small_mimic3()))
    (folder / "diagnoses").mkdir()
    (folder / "diagnoses.csv").rename(folder / "diagnoses" / "a.csv")
    (folder / "diagnoses" / "_SUCCESS").write_text("")
    assert open_source("tables", str(folder)).scan("diagnoses").collect().height > 2
    makes(folder / "diagnoses")
    refused("tables", folder, says)


SHARDS = {
    "another suffix": (lambda f: (f / "train" / "1.pq").write_text("x"), r"1\.pq: not a \.parquet part"),
    "CSV": (lambda f: (f / "events.csv").write_text("x"), r"events\.csv: not a \.parquet part"),
    "Delta": (lambda f: (f / "train" / "_delta_log").mkdir(), "a Delta table"),
    "Hive": (lambda f: (f / "split=train").mkdir(), "a Hive layout"),
    "a link to nothing": (lambda f: (f / "train" / "1.parquet").symlink_to(f / "gone"), "a link to nothing"),
    "unfinished": (lambda f: (f / "_temporary").mkdir(), "_temporary: left by a writer"),
}


@pytest.mark.parametrize("what", SHARDS)
def test_events_are_read_whole_or_refused(tmp_path, what):
    makes, says = SHARDS[what]
    folder = write_meds(tmp_path / "meds", events())
    makes(folder / "data")
    refused("meds", folder, says)


def test_every_shard_counts_once_in_capitals_linked_or_not_and_markers_never(tmp_path):
    folder = write_meds(tmp_path / "meds", events(), shards=4)
    wanted = open_source("meds", str(folder)).scan("visits").drop("place").collect().sort("visit_id")
    data = folder / "data"
    (data / "train" / "1.parquet").rename(data / "train" / "1.PARQUET")
    (tmp_path / "elsewhere").mkdir()
    (data / "train" / "2.parquet").rename(tmp_path / "elsewhere" / "2.parquet")
    (data / "held_out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    for name in ("_SUCCESS", "README.md", ".0.parquet.crc", "_tmp-0.parquet"):
        shutil.copy(data / "train" / "0.parquet", data / "train" / name)
    source = open_source("meds", str(folder))
    assert source.scan("visits").drop("place").collect().sort("visit_id").equals(wanted) and wanted.height == 5
    assert len(source.opened) == 4


def test_a_damaged_list_of_codes_is_one_line_wherever_it_is_damaged(tmp_path):
    codes = [(f"DIAGNOSIS//ICD//9//{number}", f"a title {number}") for number in range(300)]
    folder = write_meds(tmp_path / "meds", events(), codes=codes)
    path = folder / "metadata" / "codes.parquet"
    whole, source = path.read_bytes(), open_source("meds", str(folder))
    assert source.titles().height == 300
    failed = 0
    for damaged in (
        whole[:-9],
        whole[: len(whole) // 2],
        b"",
        b"PAR1",
        b"x" * 100,
        whole[:50] + bytes(40) + whole[90:],
    ):
        path.write_bytes(damaged)
        try:
            source.titles()
        except DataError as error:
            failed += 1
            assert str(error).startswith(f"{path}: cannot be read (") and "\n" not in str(error)
    assert failed >= 5
    path.unlink()
    pq.write_table(pa.table({"description": ["x"]}), path)
    with pytest.raises(DataError, match="cannot be read"):
        source.titles()
    path.unlink()
    assert source.titles().height == 0
