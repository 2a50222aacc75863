"""Tables that cannot be used are refused with file, line, damage and remedy, and without a cell's text."""

import gzip

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.ehr.csvfile import CsvFile
from ckd.ehr.kinds import open_source
from ckd.ehr.partition import partition
from ckd.errors import CkdError, ConfigError, DataError
from tests.ehr.ehr_tables import as_tables, prescription, small_mimic3, with_prescriptions, write_mimic3, write_tables

MARKER = "Zebra"  # in the cells of the damaged rows; it must reach no error


def refused(kind, folder, tmp_path, split_column=""):
    """The text of the error from opening and partitioning a folder."""
    with pytest.raises(CkdError) as caught:
        partition(open_source(kind, str(folder), split_column), str(tmp_path / "work"), 2)
    text = str(caught.value)
    assert MARKER not in text
    assert "\n" not in text
    assert not (tmp_path / "work" / "artifact.json").exists()
    return text


@pytest.mark.parametrize("kind", ["mimic3", "mimic4", "tables", "omop", "eicu", "meds"])
def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path, kind):
    assert "no such folder" in refused(kind, tmp_path / "nothing", tmp_path)
    (tmp_path / "empty").mkdir()
    assert refused(kind, tmp_path / "empty", tmp_path).startswith(f"{tmp_path / 'empty'}: no ")


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected one of mimic3, mimic4, tables, omop, eicu, meds"):
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


def test_the_same_part_of_a_table_twice_is_refused(tmp_path):
    write_tables(tmp_path, as_tables(small_mimic3()), suffix=".parquet", without=("visits",))
    (tmp_path / "visits").mkdir()
    (tmp_path / "visits" / "a.csv").write_text("visit_id,subject_id,start,end,died\n")
    (tmp_path / "visits" / "a.csv.gz").write_bytes(b"")
    assert "more than one file 'a'" in refused("tables", tmp_path, tmp_path)


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
        (
            [prescription(1), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra\n", prescription(3)],
            3,
            "8 cells, the header has 10",
        ),
        ([prescription(1), b"2,1,11\n"], 3, "3 cells, the header has 10"),
        (
            [prescription(1), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra,,PO,more\n", prescription(3)],
            3,
            "11 cells, the header has 10",
        ),
        ([prescription(1), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra, human,,PO\n"], 3, "11 cells, the header has 10"),
        (
            [prescription(1)[:-3] + b"\n", b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra, human,PO,\n"],
            3,
            "11 cells, the header has 10",
        ),
        (
            [prescription(1, b'"x"'), b"2,1,11,,2150-01-01 00:00:00,,MAIN,Zebra, human,PO,\n"],
            3,
            "11 cells, the header has 10",
        ),
        ([prescription(1)[:-1] + b",,,,\n"], 2, "14 cells, the header has 10"),
        ([prescription(1), prescription(2, b'"Zebra'), prescription(3)], 3, "a quote"),
        ([prescription(1), prescription(2, b'Zebra 5"'), prescription(3)], 3, "a quote"),
        (
            [
                prescription(1),
                prescription(2, b'"Zebra'),
                prescription(3),
                prescription(4),
                prescription(5, b'"Zebra'),
                prescription(6),
            ],
            3,
            "a quote",
        ),
        (
            [prescription(1), prescription(2), prescription(3, b"Z\xe9bra"), prescription(4)],
            4,
            "not UTF-8; convert it: iconv",
        ),
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
    lines = [prescription(n, b"%x" % (n * 2654435761 % 2**32)) for n in range(2000)]
    folder = with_prescriptions(tmp_path / "a", lines, "prescriptions.csv.gz", lambda data: gzip.compress(data)[:-lost])
    text = refused("mimic3", folder, tmp_path)
    assert "ends too early" in text
    assert text.startswith(f"{folder / 'prescriptions.csv.gz'}:")


def test_a_gzip_file_with_a_wrong_checksum_is_refused(tmp_path):
    folder = with_prescriptions(
        tmp_path / "a",
        [prescription(1)],
        "prescriptions.csv.gz",
        lambda data: gzip.compress(data)[:-8] + b"\0\0\0\0\0\0\0\0",
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
        ("visits", "visit_id", True, "column 'visit_id' is Boolean, expected text or whole numbers"),
        ("visits", "start", 20500101, "column 'start' is Int64, expected a timestamp, a date or text"),
        ("visits", "died", 0.5, "the flag for death or newborn is neither 0/1 nor true/false"),
        ("visits", "visit_id", 1.5, "admissions have no visit id"),
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
