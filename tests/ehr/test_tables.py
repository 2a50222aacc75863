"""What is read from tables: the canonical columns, the same from every layout and way of writing them."""

import gzip
from datetime import datetime

import polars as pl
import pytest

from ckd.ehr.canonical import SCHEMAS, TABLE_NAMES
from ckd.ehr.kinds import open_source
from ckd.ehr.partition import partition
from ckd.errors import ConfigError
from tests.ehr.ehr_tables import (
    as_mimic4,
    as_tables,
    prescription,
    small_mimic3,
    with_prescriptions,
    write_mimic3,
    write_mimic4,
    write_tables,
)
from tests.ehr.mimic_rows import open_data

at = datetime.fromisoformat


def frames(source):
    return {table: source.scan(table).drop("place").collect() for table in TABLE_NAMES}


def test_every_table_has_the_columns_and_types_of_the_contract(tmp_path):
    for kind, folder in (
        ("mimic3", write_mimic3(tmp_path / "3", small_mimic3())),
        ("mimic4", write_mimic4(tmp_path / "4", as_mimic4(small_mimic3()))),
        ("tables", write_tables(tmp_path / "t", as_tables(small_mimic3()))),
    ):
        source = open_source(kind, str(folder))
        for table, schema in SCHEMAS.items():
            wanted = schema if "subject_id" in schema else {"subject_id": pl.String(), **schema}
            assert dict(source.scan(table).collect_schema()) == dict(wanted)
            assert list(source.scan(table).collect().columns) == list(wanted)


def test_a_mimic3_visit_as_it_is_read(tmp_path):
    visits = open_source("mimic3", str(write_mimic3(tmp_path, small_mimic3()))).scan("visits").collect().to_dicts()
    assert visits[0] == {
        "visit_id": "11",
        "subject_id": "1",
        "start": at("2150-01-01 10:00:00"),
        "start_bad": False,
        "end": at("2150-01-05 12:00:00"),
        "end_bad": False,
        "died": False,
        "newborn": False,
        "age": None,
        "sex": None,
        "ethnicity": "WHITE",
        "insurance": "Medicare",
        "admission_type": "EMERGENCY",
        "dod": None,
        "cut": None,
        "groups": None,
        "place": 2,
    }
    assert [v["died"] for v in visits] == [False, False, True]


def test_header_case_and_compression_make_no_difference(tmp_path):
    rows = small_mimic3()
    found = [
        frames(open_source("mimic3", str(write_mimic3(tmp_path / f"{gz}{upper}", rows, gz=gz, upper=upper))))
        for gz in (False, True)
        for upper in (False, True)
    ]
    for other in found[1:]:
        assert all(found[0][table].equals(other[table]) for table in TABLE_NAMES)


def test_mimic4_and_generic_tables_say_the_same_as_mimic3(tmp_path):
    rows = small_mimic3()
    first = frames(open_source("mimic3", str(write_mimic3(tmp_path / "3", rows))))
    fourth = frames(open_source("mimic4", str(write_mimic4(tmp_path / "4", as_mimic4(rows)))))
    beside = frames(open_source("mimic4", str(write_mimic4(tmp_path / "4b", as_mimic4(rows), hosp=False))))
    for table in ("visits", "diagnoses", "medications", "procedures"):
        assert first[table].equals(fourth[table])
        assert first[table].equals(beside[table])
    assert fourth["patients"].select("anchor_age", "anchor_year").row(0) == (60, 2150)
    for suffix in (".csv", ".csv.gz", ".parquet"):
        generic = frames(
            open_source("tables", str(write_tables(tmp_path / f"t{suffix}", as_tables(rows), suffix=suffix)))
        )
        assert generic["patients"].is_empty()
        assert first["visits"].drop("sex").equals(generic["visits"].drop("sex"))
        assert generic["visits"]["sex"].to_list() == ["F", "F", "M"]
        for table in ("diagnoses", "medications", "procedures"):
            assert first[table].equals(generic[table])


def test_the_order_of_the_columns_and_further_columns_make_no_difference(tmp_path):
    rows = small_mimic3()
    columns = {
        "diagnoses_icd": "icd9_code hadm_id note seq_num subject_id",
        "admissions": "hospital_expire_flag dischtime admittime ethnicity",
    }
    columns["admissions"] += " deathtime subject_id hadm_id insurance admission_type has_chartevents_data"
    first = frames(open_source("mimic3", str(write_mimic3(tmp_path / "a", rows))))
    other = frames(open_source("mimic3", str(write_mimic3(tmp_path / "b", rows, columns=columns))))
    assert all(first[table].equals(other[table]) for table in TABLE_NAMES)


def test_codes_stay_text_and_quoted_empty_cells_are_null(tmp_path):
    lines = [b"1,1,11,,,,MAIN,007,,PO\n", b'"2","","11","","","","MAIN","","","PO"\n']
    drugs = open_source("mimic3", str(with_prescriptions(tmp_path, lines))).scan("medications").collect()
    assert drugs["drug"].to_list() == ["007", None]
    assert drugs["subject_id"].to_list() == ["1", None]


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_read(tmp_path):
    folder = write_mimic3(tmp_path, small_mimic3(), upper=False)
    path = folder / "diagnoses_icd.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n").replace(b"5849\r\n", b"5849\r\n\r\n") + b"\r\n\r\n"
    )
    source = open_source("mimic3", str(folder))
    partition(source, str(tmp_path / "work"), 1)
    rows = source.scan("diagnoses").collect()
    assert rows["code"].to_list() == ["5849", "0389", "E8497", "42731"]
    assert [source.locate("diagnoses", place).rpartition(":")[2] for place in rows["place"]] == ["2", "4", "5", "6"]


def test_a_place_leads_to_the_line_even_behind_cells_with_line_ends(tmp_path):
    lines = [prescription(1), b'2,1,11,,,,MAIN,"two\nlines, quoted",,PO\n', prescription(3)]
    for name, pack in (("prescriptions.csv", None), ("PRESCRIPTIONS.CSV.GZ", gzip.compress)):
        folder = with_prescriptions(tmp_path / name, lines, name, pack)
        source = open_source("mimic3", str(folder))
        partition(source, str(tmp_path / name / "work"), 1)
        rows = source.scan("medications").collect()
        assert rows["drug"].to_list() == ["Zebra", "two\nlines, quoted", "Zebra"]
        assert [source.locate("medications", place) for place in rows["place"]] == [
            f"{folder / name}:{line}" for line in (2, 3, 5)
        ]


def test_times_that_cannot_be_read_are_told_from_missing_ones(tmp_path):
    rows = small_mimic3()
    for row, start, end in zip(
        rows["admissions"],
        ("2150-13-01 00:00:00", "", "yesterday"),
        ("", "05/01/2150", "2150-01-01 00:00:00"),
        strict=True,
    ):
        row.update(admittime=start, dischtime=end)
    visits = open_source("mimic3", str(write_mimic3(tmp_path, rows))).scan("visits").collect()
    assert visits["start_bad"].to_list() == [True, False, True]
    assert visits["end_bad"].to_list() == [False, True, False]
    assert visits["start"].null_count() == 3


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2150-01-02 03:04:05", at("2150-01-02 03:04:05")),
        ("2150-01-02T03:04:05", at("2150-01-02 03:04:05")),
        ("2150-01-02T03:04:05.250Z", at("2150-01-02 03:04:05.250000")),
        ("2150-01-02 03:04", at("2150-01-02 03:04:00")),
        ("2150-01-02", at("2150-01-02 00:00:00")),
        ("02.01.2150", None),
        ("2150-02-30", None),
        ("2150-01-02 03:04:05 p.m.", None),
    ],
)
def test_the_generic_tables_take_iso_times(tmp_path, text, wanted):
    rows = as_tables(small_mimic3())
    rows["visits"][0]["start"] = text
    visits = open_source("tables", str(write_tables(tmp_path, rows))).scan("visits").collect()
    assert visits["start"][0] == wanted
    assert visits["start_bad"][0] == (wanted is None)


def test_parquet_times_numbers_and_flags_are_taken_as_they_are(tmp_path):
    visit = {
        "visit_id": 7,
        "subject_id": 8,
        "start": at("2150-01-01 00:00:00"),
        "end": at("2150-01-02 00:00:00").date(),
        "died": True,
        "newborn": None,
    }
    visit |= {"age": 61.9, "sex": "F"}
    folder = write_tables(tmp_path, {"visits": [visit]}, suffix=".parquet")
    row = open_source("tables", str(folder)).scan("visits").collect().row(0, named=True)
    assert (row["visit_id"], row["subject_id"], row["age"], row["died"], row["newborn"]) == (
        "7",
        "8",
        "61",
        True,
        False,
    )
    assert (row["start"], row["end"]) == (at("2150-01-01 00:00:00"), at("2150-01-02 00:00:00"))


def test_a_generic_table_may_be_a_folder_of_parts(tmp_path):
    rows = as_tables(small_mimic3())
    write_tables(tmp_path, rows, suffix=".parquet")
    whole = (tmp_path / "visits.parquet").read_bytes()
    (tmp_path / "visits.parquet").unlink()
    (tmp_path / "visits").mkdir()
    (tmp_path / "visits" / "b.parquet").write_bytes(whole)
    (tmp_path / "visits" / "a.csv").write_text("visit_id,subject_id,start,end,died\n99,9,2150-01-01,2150-01-02,0\n")
    source = open_source("tables", str(tmp_path))
    visits = source.scan("visits").collect()
    assert visits["visit_id"].to_list() == ["99", "11", "12", "21"]
    where = [source.locate("visits", place).removeprefix(str(tmp_path)) for place in visits["place"]]
    assert where == ["/visits/a.csv:2", "/visits/b.parquet:1", "/visits/b.parquet:2", "/visits/b.parquet:3"]


def test_the_own_titles_of_a_data_set_are_read(tmp_path):
    rows = small_mimic3() | {
        "d_icd_diagnoses": [
            {"icd9_code": "5849", "short_title": "ARF", "long_title": "Acute kidney failure, unspecified"}
        ],
        "d_icd_procedures": [{"icd9_code": "3995", "long_title": "Hemodialysis"}, {"icd9_code": "0001"}],
    }
    titles = open_source("mimic3", str(write_mimic3(tmp_path / "3", rows))).titles()
    assert titles.columns == ["kind", "version", "code", "title"]
    assert titles.rows() == [
        ("diagnosis", "9", "5849", "Acute kidney failure, unspecified"),
        ("procedure", "9", "3995", "Hemodialysis"),
    ]
    rows = as_mimic4(small_mimic3()) | {
        "d_icd_diagnoses": [{"icd_code": "N179", "icd_version": 10, "long_title": "Acute kidney failure"}]
    }
    assert open_source("mimic4", str(write_mimic4(tmp_path / "4", rows))).titles().rows() == [
        ("diagnosis", "10", "N179", "Acute kidney failure")
    ]
    assert open_source("mimic3", str(write_mimic3(tmp_path / "none", small_mimic3()))).titles().rows() == []


def test_the_split_column_may_stand_in_the_admissions_or_the_patients(tmp_path):
    folder = str(write_mimic4(tmp_path, as_mimic4(small_mimic3())))
    by_group = open_source("mimic4", folder, "Anchor_Year_Group")
    assert by_group.scan("patients").collect()["cut"].to_list() == ["2011 - 2013"] * 2
    assert by_group.scan("visits").collect()["cut"].null_count() == 3
    assert open_source("mimic4", folder, "insurance").scan("visits").collect()["cut"].to_list() == ["Medicare"] * 3
    with pytest.raises(ConfigError, match=r"split_column=site: no such column .*anchor_year_group.*name one of these"):
        open_source("mimic4", folder, "site")


def test_the_content_hash_changes_with_any_byte_and_not_with_the_folder(tmp_path):
    first = open_source("mimic3", str(write_mimic3(tmp_path / "a", small_mimic3())))
    again = open_source("mimic3", str(write_mimic3(tmp_path / "b", small_mimic3())))
    rows = small_mimic3()
    rows["prescriptions"][0]["drug"] = "Furosemidx"
    other = open_source("mimic3", str(write_mimic3(tmp_path / "c", rows)))
    assert first.content_hash == again.content_hash != other.content_hash
    assert list(first.files)[:2] == ["ADMISSIONS.csv", "PATIENTS.csv"]
    assert all(size > 0 for size in first.files.values())


def test_the_license_comes_from_the_folder_where_it_is_stated(tmp_path):
    folder = write_mimic3(tmp_path, small_mimic3())
    source = open_source("mimic3", str(folder))
    assert "Credentialed" in source.license
    assert source.credentialed
    (folder / "LICENSE.txt").write_text("\nOpen Database License\nmore\n")
    source = open_source("mimic3", str(folder))
    assert source.license == "Open Database License"
    assert not source.credentialed
    assert open_source("tables", str(write_tables(tmp_path / "t", as_tables(small_mimic3())))).license == "not stated"


def test_the_open_demos_have_the_stated_numbers_of_admissions():
    for kind, folder, admissions, subjects in (
        ("mimic3", "mimic3_demo", 129, 100),
        ("mimic4", "mimic4_demo", 275, 100),
    ):
        source = open_source(kind, str(open_data() / folder))
        visits = source.scan("visits").collect()
        assert (visits.height, visits["subject_id"].n_unique()) == (admissions, subjects)
        assert visits.select("start", "end", "died").null_count().row(0) == (0, 0, 0)
        assert not visits["start_bad"].any()
