import re
import shutil
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.ehr.canonical import SCHEMAS, TABLE_NAMES
from ckd.ehr.kinds import open_source
from ckd.ehr.partition import facts, partition, read, stored, visit_key
from ckd.errors import ArtifactError, ConfigError, DataError, MismatchError
from ckd.store.folders import ARTIFACT_FILE
from tests.ehr.ehr_tables import admission, as_tables, small_mimic3, write_mimic3, write_tables


def made(tmp_path, tables, partitions=3, **options):
    """Folder of the partitioned MIMIC-III tables, and the source."""
    source = open_source("mimic3", str(write_mimic3(tmp_path / "source", tables, **options)))
    partition(source, str(tmp_path / "work"), partitions)
    return str(tmp_path / "work"), source


_ID = st.sampled_from(["", "1", "2", "07", "x", "a longer subject id"])
_ROW = st.fixed_dictionaries(
    {
        "subject_id": _ID,
        "hadm_id": st.sampled_from(["", "1", "2", "3", "4"]),
        "icd9_code": st.sampled_from(["", "0389"]),
    }
)
_DRUG = st.fixed_dictionaries(
    {"subject_id": _ID, "hadm_id": st.sampled_from(["1", "9"]), "drug": st.sampled_from(["", "Zinc", "é, ö"])}
)


@given(
    visits=st.dictionaries(st.sampled_from("12345678"), _ID, min_size=1),
    patients=st.sets(_ID.filter(bool)),
    coded=st.lists(_ROW, max_size=12),
    drugs=st.lists(_DRUG, max_size=12),
    partitions=st.integers(1, 5),
)
def test_partitions_hold_every_row_once_and_each_subject_in_one(
    tmp_path_factory, visits, patients, coded, drugs, partitions
):
    tmp_path = tmp_path_factory.mktemp("partition")
    tables = {
        "admissions": [
            admission(subject, visit, "2150-01-01 00:00:00", "2150-01-02 00:00:00") for visit, subject in visits.items()
        ],
        "patients": [{"subject_id": subject} for subject in sorted(patients)],
        "diagnoses_icd": coded,
        "prescriptions": drugs,
    }
    folder, source = made(tmp_path, tables, partitions)
    home = {}
    for table, name in (
        ("visits", "admissions"),
        ("patients", "patients"),
        ("diagnoses", "diagnoses_icd"),
        ("medications", "prescriptions"),
    ):
        subjects = {number: row["subject_id"] for number, row in enumerate(tables[name], 2)}
        lines = Counter()
        for index in range(partitions):
            frame = read(folder, table, index)
            assert frame.schema == stored(table)
            assert frame["place"].is_sorted()
            for place in frame["place"]:
                line = int(source.locate(table, place).rpartition(":")[2])
                lines[line] += 1
                # Rows without a subject may be anywhere; the others are where their subject's rows of every table are.
                if subjects[line]:
                    assert home.setdefault(subjects[line], index) == index
        cells = {number for number, row in enumerate(tables[name], 2) if any(row.values())}
        assert lines == Counter(cells)
    assert facts(folder)["tables"]["visits"]["rows"] == sum(facts(folder)["stored"]["visits"]) == len(visits)
    assert facts(folder)["without_subject"]["rows"] == sum(not subject for subject in visits.values())


def test_the_partitions_together_are_the_scanned_table(tmp_path):
    folder, source = made(tmp_path, small_mimic3(), gz=True)
    for table in TABLE_NAMES:
        together = pl.concat([read(folder, table, index) for index in range(3)]).sort("place")
        scanned = source.scan(table).select(*SCHEMAS[table]).collect()
        same = [name for name in SCHEMAS[table] if name in together.columns]
        assert together.select(same).cast({pl.Categorical: pl.String}).equals(scanned.select(same))
        if "visit_id" in scanned.columns:
            assert together["visit"].to_list() == source.scan(table).select(visit_key()).collect().to_series().to_list()


def test_a_partition_that_holds_nothing_is_an_empty_frame(tmp_path):
    folder, _ = made(tmp_path, {"admissions": [admission(1, 11, "2150-01-01 00:00:00", "2150-01-02 00:00:00")]}, 4)
    heights = [[read(folder, table, index).height for index in range(4)] for table in TABLE_NAMES]
    assert [sum(column) for column in heights] == [1, *[0] * (len(TABLE_NAMES) - 1)]
    assert all(read(folder, table, 3).schema == stored(table) for table in TABLE_NAMES)


def test_admissions_without_a_subject_are_counted_with_the_first_place(tmp_path):
    tables = small_mimic3()
    for row in tables["admissions"][1:]:
        row["subject_id"] = ""
    folder, source = made(tmp_path, tables)
    without = facts(folder)["without_subject"]
    assert without["rows"] == 2
    assert source.locate("visits", without["place"]).endswith("ADMISSIONS.csv:3")


def test_rows_of_empty_cells_are_no_rows_and_counted(tmp_path):
    tables = small_mimic3()
    tables["diagnoses_icd"].insert(2, {})
    folder, source = made(tmp_path, tables)
    assert facts(folder)["tables"]["diagnoses"] == {"rows": 4, "blank_rows": 1, "cells": {}}
    last = max(read(folder, "diagnoses", index)["place"].max() or 0 for index in range(3))
    assert source.locate("diagnoses", last).endswith(":6")


def test_the_same_visit_id_twice_is_refused_with_both_places(tmp_path):
    tables = small_mimic3()
    tables["admissions"].append(admission(3, 11, "2151-01-01 00:00:00", "2151-01-02 00:00:00"))
    tables["admissions"].append(admission(2, 21, "2151-01-01 00:00:00", "2151-01-02 00:00:00"))
    again = r"2 visit ids are there more than once, the first one here and at .*ADMISSIONS\.csv:5;"
    with pytest.raises(DataError, match=rf"ADMISSIONS\.csv:2: {again}"):
        made(tmp_path, tables)
    assert not (tmp_path / "work" / ARTIFACT_FILE).exists()


def test_the_same_patient_twice_is_refused(tmp_path):
    tables = small_mimic3()
    tables["patients"].append({"subject_id": 1, "gender": "M"})
    with pytest.raises(
        DataError,
        match=r"PATIENTS\.csv:2: 1 patients are there more than once, the first one here and at .*PATIENTS\.csv:4;",
    ):
        made(tmp_path, tables)


def test_an_admission_without_its_id_is_refused(tmp_path):
    tables = small_mimic3()
    tables["admissions"][1]["hadm_id"] = ""
    with pytest.raises(DataError, match=r"ADMISSIONS\.csv:3: 1 of 3 admissions have no visit id"):
        made(tmp_path, tables)


def test_a_table_without_any_admission_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no admission in it"):
        made(tmp_path, {})


def test_a_flag_that_is_neither_true_nor_false_is_refused_without_the_cell(tmp_path):
    rows = as_tables(small_mimic3())
    rows["visits"][2]["died"] = "Zebra"
    source = open_source("tables", str(write_tables(tmp_path / "source", rows)))
    with pytest.raises(DataError, match=r"visits\.csv:4: the flag for death or newborn") as caught:
        partition(source, str(tmp_path / "work"), 1)
    assert "Zebra" not in str(caught.value)


def test_what_is_done_is_not_read_again_and_what_was_killed_is_made_anew(tmp_path):
    folder, source = made(tmp_path, small_mimic3())
    before = {table: [read(folder, table, index) for index in range(3)] for table in TABLE_NAMES}
    files = sorted(str(path.relative_to(folder)) for path in (tmp_path / "work").rglob("*"))
    stamp = (tmp_path / "work" / ARTIFACT_FILE).stat().st_mtime_ns
    assert partition(source, folder, 3) == facts(folder)["stored"]["visits"]
    assert (tmp_path / "work" / ARTIFACT_FILE).stat().st_mtime_ns == stamp
    # Killed: it never got its name.
    (tmp_path / "work").rename(tmp_path / "work.killed.tmp")
    partition(source, folder, 3)
    assert sorted(str(path.relative_to(folder)) for path in (tmp_path / "work").rglob("*")) == files
    for table, frames in before.items():
        assert all(read(folder, table, index).equals(frame) for index, frame in enumerate(frames))


def test_rows_that_are_lost_on_the_way_are_never_taken_for_all(tmp_path, monkeypatch):
    folder, _ = made(tmp_path, small_mimic3(), 1)
    file = next((tmp_path / "work" / "diagnoses").rglob("*.ipc"))
    whole = file.read_bytes()
    for damage, said in (
        (file.unlink, "0 of 4 rows of diagnoses are left in partition 0"),
        (lambda: pl.read_ipc(whole).head(3).write_ipc(file), "diagnoses/.* changed since it was written"),
        (lambda: file.write_bytes(whole[: len(whole) // 2]), "diagnoses/.* changed since it was written"),
        (lambda: file.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]), "diagnoses/.* changed since"),
    ):
        damage()
        with pytest.raises(ArtifactError, match=f"{re.escape(folder)}: {said}.*; delete that folder"):
            read(folder, "diagnoses", 0)
    # Another program removes a file while it is written, as a second ingest once did.
    sink = pl.LazyFrame.sink_ipc

    def and_loses_a_file(rows, target, **options):
        sink(rows, target, **options)
        for path in tmp_path.rglob("work2*/medications/*/*.ipc"):
            path.unlink()

    monkeypatch.setattr(pl.LazyFrame, "sink_ipc", and_loses_a_file)
    source = open_source("mimic3", str(tmp_path / "source"))
    with pytest.raises(ArtifactError, match=r"0 of \d rows of medications were stored"):
        partition(source, str(tmp_path / "work2"), 1)
    assert not list(tmp_path.glob("work2*"))


def test_other_tables_or_another_number_of_partitions_are_refused_by_name(tmp_path):
    folder, source = made(tmp_path, small_mimic3())
    with pytest.raises(MismatchError, match="partitions=3, this run has partitions=4"):
        partition(source, folder, 4)
    tables = small_mimic3()
    tables["admissions"][0]["insurance"] = "Private"
    other = open_source("mimic3", str(write_mimic3(tmp_path / "other", tables)))
    with pytest.raises(MismatchError, match="made with input="):
        partition(other, folder, 3)


def test_small_tables_are_one_partition_and_an_unfinished_folder_is_told(tmp_path):
    source = open_source("mimic3", str(write_mimic3(tmp_path / "source", small_mimic3())))
    assert partition(source, str(tmp_path / "work"), 0) == [3]
    with pytest.raises(DataError, match="not partitioned"):
        facts(str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="local"):
        partition(source, "s3://bucket/work", 1)


def test_text_of_damaged_cells_reaches_no_error(tmp_path):
    for damaged in (b"Zebra", b'"Zebra', b'Zebra"', b"Z\xe9bra Zebra", b"Zebra,Zebra", b"Zebra\nZebra"):
        for table in ("ADMISSIONS", "PATIENTS", "DIAGNOSES_ICD", "PRESCRIPTIONS", "PROCEDURES_ICD"):
            folder = write_mimic3(tmp_path / "source", small_mimic3())
            path = folder / f"{table}.csv"
            for cell in (
                rb"\b1\b",
                rb"2150-01-01 10:00:00",
                rb"5849",
                rb"Furosemide",
                rb"3995",
                rb"2080-02-03 00:00:00",
                rb",0,",
            ):
                changed = re.sub(cell, lambda found, damaged=damaged: damaged, path.read_bytes(), count=1)
                if changed == path.read_bytes():
                    continue
                whole = path.read_bytes()
                path.write_bytes(changed)
                try:
                    partition(open_source("mimic3", str(folder)), str(tmp_path / "work"), 1)
                except DataError as error:
                    assert "ebra" not in str(error)
                    assert str(path) in str(error)
                else:
                    assert damaged == b"Zebra"
                    shutil.rmtree(tmp_path / "work")
                path.write_bytes(whole)
