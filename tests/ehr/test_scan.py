import gzip
from datetime import datetime

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.ehr.canonical import SCHEMAS, TABLE_NAMES
from ckd.ehr.csvfile import CsvFile
from ckd.ehr.kinds import open_source
from ckd.ehr.partition import partition
from ckd.errors import CkdError, ConfigError, DataError
from tests.ehr.ehr_tables import as_mimic4, as_tables, small_mimic3, write_mimic3, write_mimic4, write_tables
from tests.ehr.mimic_rows import open_data

at = datetime.fromisoformat
MARKER = "Zebra"  # stands in the cells of the damaged rows and must reach no error


def frames(source):
    return {table: source.scan(table).drop("place").collect() for table in TABLE_NAMES}


def refused(kind, folder, tmp_path, split_column=""):
    """The text of the error from opening and partitioning a folder."""
    with pytest.raises(CkdError) as caught:
        partition(open_source(kind, str(folder), split_column), str(tmp_path / "work"), 2)
    text = str(caught.value)
    assert MARKER not in text
    assert "\n" not in text
    assert not (tmp_path / "work" / "artifact.json").exists()
    return text


def with_prescriptions(folder, lines, name="prescriptions.csv", pack=None, **options):
    """A MIMIC-III folder whose prescriptions are these lines (bytes) after a header of ten columns."""
    write_mimic3(folder, small_mimic3(), upper=False, without=("prescriptions",), **options)
    header = b"row_id,subject_id,hadm_id,icustay_id,startdate,enddate,drug_type,drug,drug_name_poe,route\n"
    data = header + b"".join(lines)
    (folder / name).write_bytes(pack(data) if pack else data)
    return folder


def good(number, drug=b"Zebra", route=b"PO"):
    return b"%d,1,11,,2150-01-01 00:00:00,,MAIN,%s,,%s\n" % (number, drug, route)


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
        "cut": None,
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
    lines = [good(1), b'2,1,11,,,,MAIN,"two\nlines, quoted",,PO\n', good(3)]
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
    (tmp_path / "visits" / "a.csv.gz").write_bytes(b"")
    assert "more than one file 'a'" in refused("tables", tmp_path, tmp_path)


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
    assert [file.name for file in first.files][:2] == ["ADMISSIONS.csv", "PATIENTS.csv"]
    assert all(file.size > 0 for file in first.files)


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


# Bad input


@pytest.mark.parametrize("kind", ["mimic3", "mimic4", "tables", "meds"])
def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path, kind):
    assert "no such folder" in refused(kind, tmp_path / "nothing", tmp_path)
    (tmp_path / "empty").mkdir()
    assert refused(kind, tmp_path / "empty", tmp_path).startswith(f"{tmp_path / 'empty'}: no ")


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected one of mimic3, mimic4, tables, meds"):
        open_source("mimic5", str(tmp_path))


def test_a_missing_table_is_refused_with_what_is_there(tmp_path):
    text = refused("mimic3", write_mimic3(tmp_path / "a", small_mimic3(), without=("prescriptions",)), tmp_path)
    assert (
        "no table 'prescriptions' (there: ADMISSIONS.csv, DIAGNOSES_ICD.csv, PATIENTS.csv, PROCEDURES_ICD.csv)" in text
    )


def test_a_missing_column_is_refused_with_those_found(tmp_path):
    folder = write_mimic3(tmp_path / "a", small_mimic3(), columns={"diagnoses_icd": "subject_id hadm_id seq_num"})
    assert (
        f"{folder / 'DIAGNOSES_ICD.csv'}: no column 'icd9_code' among subject_id, hadm_id, seq_num; it is needed"
        in refused("mimic3", folder, tmp_path)
    )


def test_the_same_table_twice_is_refused(tmp_path):
    folder = write_mimic3(tmp_path / "a", small_mimic3())
    write_mimic3(folder, small_mimic3(), gz=True, without=("admissions", "patients", "prescriptions", "procedures_icd"))
    assert "DIAGNOSES_ICD.csv and DIAGNOSES_ICD.csv.gz are there" in refused("mimic3", folder, tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", ":1: the file is empty"),
        (b"<!DOCTYPE html>\n<html>Zebra</html>\n", ":1: an HTML or XML page"),
        (b"subject_id,hadm_id,drug,DRUG,startdate\n", ":1: column 'drug' is there twice"),
        (b"1,11,2150-01-01 00:00:00,Zebra\n", ":1: no header"),
        (b"subject_id;hadm_id;startdate;drug\n", "separated by commas"),
        ("subject_id,Zebra\n".encode("utf-16"), ":1: UTF-16"),
        (b"\x1f\x8bZebra", "the gzip file"),
        (b"PAR1Zebra", ": no column 'hadm_id' in its first line"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, data, said):
    folder = write_mimic3(tmp_path / "a", small_mimic3(), upper=False, without=("prescriptions",))
    (folder / "prescriptions.csv").write_bytes(data)
    text = refused("mimic3", folder, tmp_path)
    assert str(folder / "prescriptions.csv") in text
    assert said in text
    assert "zebra" not in text


@pytest.mark.parametrize(
    ("damaged", "line", "said"),
    [
        ([good(1), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra\n", good(3)], 3, "8 cells, the header has 10"),
        ([good(1), b"2,1,11\n"], 3, "3 cells, the header has 10"),
        ([good(1), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra,,PO,more\n", good(3)], 3, "11 cells, the header has 10"),
        ([good(1), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra, human,,PO\n"], 3, "11 cells, the header has 10"),
        (
            [good(1)[:-3] + b"\n", b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra, human,PO,\n"],
            3,
            "11 cells, the header has 10",
        ),
        ([good(1, b'"x"'), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra, human,PO,\n"], 3, "11 cells, the header has 10"),
        ([good(1)[:-1] + b",,,,\n"], 2, "14 cells, the header has 10"),
        ([good(1), good(2, b'"Zebra'), good(3)], 3, "a quote"),
        ([good(1), good(2, b'Zebra 5"'), good(3)], 3, "a quote"),
        ([good(1), good(2, b'"Zebra'), good(3), good(4), good(5, b'"Zebra'), good(6)], 3, "a quote"),
        ([good(1), good(2), good(3, b"Z\xe9bra"), good(4)], 4, "not UTF-8; convert it: iconv"),
    ],
)
@pytest.mark.parametrize("pack", [None, gzip.compress])
def test_damaged_lines_are_refused_with_their_place(tmp_path, damaged, line, said, pack):
    name = "prescriptions.csv.gz" if pack else "prescriptions.csv"
    folder = with_prescriptions(tmp_path / "a", damaged, name, pack)
    text = refused("mimic3", folder, tmp_path)
    assert text.startswith(f"{folder / name}:{line}: ")
    assert said.replace("convert it: iconv", "convert it: gunzip, then iconv" if pack else "convert it: iconv") in text


@pytest.mark.parametrize("lost", [4, 8, 2000])
def test_a_truncated_gzip_file_is_refused(tmp_path, lost):
    lines = [good(n, b"%x" % (n * 2654435761 % 2**32)) for n in range(2000)]
    folder = with_prescriptions(tmp_path / "a", lines, "prescriptions.csv.gz", lambda data: gzip.compress(data)[:-lost])
    text = refused("mimic3", folder, tmp_path)
    assert "ends too early" in text
    assert text.startswith(f"{folder / 'prescriptions.csv.gz'}:")


def test_a_gzip_file_with_a_wrong_checksum_is_refused(tmp_path):
    folder = with_prescriptions(
        tmp_path / "a", [good(1)], "prescriptions.csv.gz", lambda data: gzip.compress(data)[:-8] + b"\0\0\0\0\0\0\0\0"
    )
    assert "the gzip file is damaged" in refused("mimic3", folder, tmp_path)


def test_parquet_that_is_none_or_cut_off_is_refused(tmp_path):
    folder = write_tables(tmp_path / "a", as_tables(small_mimic3()), suffix=".parquet")
    whole = (folder / "visits.parquet").read_bytes()
    (folder / "visits.parquet").write_bytes(b"visit_id,Zebra\n")
    assert "visits.parquet: not a Parquet file" in refused("tables", folder, tmp_path)
    (folder / "visits.parquet").write_bytes(whole[:4] + bytes(200) + whole[204:])
    assert "visits.parquet: damaged Parquet" in refused("tables", folder, tmp_path)


@pytest.mark.parametrize(
    ("table", "column", "value", "said"),
    [
        ("diagnoses", "code", 5849, "column 'code' is Int64, expected text (a number has lost its leading zeros)"),
        ("visits", "visit_id", 1.5, "column 'visit_id' is Float64, expected text or whole numbers"),
        ("visits", "start", 20500101, "column 'start' is Int64, expected a timestamp, a date or text"),
        ("visits", "died", 0.5, "column 'died' is Float64, expected true or false"),
        ("diagnoses", "version", 9.0, "column 'version' is Float64, expected text or whole numbers"),
    ],
)
def test_parquet_columns_of_a_wrong_type_are_refused(tmp_path, table, column, value, said):
    rows = as_tables(small_mimic3())
    rows[table] = [{**row, column: value} for row in rows[table]]
    text = refused("tables", write_tables(tmp_path / "a", rows, suffix=".parquet"), tmp_path)
    assert said in text


@given(
    rows=st.lists(st.lists(st.text(alphabet='ab,"\n é', max_size=5), min_size=3, max_size=3), max_size=8),
    wrong=st.none() | st.tuples(st.integers(0, 7), st.sampled_from([1, 2, 4, 5])),
)
@example(rows=[["", "", ""]], wrong=(0, 2))
@example(rows=[["a\na", "b", ""]], wrong=None)
def test_a_line_with_the_wrong_number_of_cells_is_found_and_no_other(tmp_path_factory, rows, wrong):
    def quoted(cell):
        return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n') else cell

    path = tmp_path_factory.mktemp("lines") / "x.csv"
    cells = [list(row) for row in rows]
    if wrong is not None and wrong[0] < len(cells):
        cells[wrong[0]] = (cells[wrong[0]] + ["x", "x"])[: wrong[1]]
    lines = [",".join(map(quoted, row)) for row in [["a", "b", "c"], *cells]]
    path.write_text("\n".join(lines) + "\n", newline="")
    damaged = next((k for k, row in enumerate(cells) if len(row) != 3 and lines[k + 1]), None)
    if damaged is None:
        CsvFile.open(path).check_lines()
        return
    with pytest.raises(DataError) as caught:
        CsvFile.open(path).check_lines()
    line = 1 + sum(text.count("\n") + 1 for text in lines[: damaged + 1])
    assert str(caught.value).startswith(f"{path}:{line}: {len(cells[damaged])} cells, the header has 3")
