"""OMOP and eICU folders as databases, pandas and Spark write them: the same cohort as the plain one, or a refusal."""

import csv
import re

import polars as pl
import pytest

from jobs.cli import main
from tests.ehr.ingest_reference import ingest
from tests.ehr.related_tables import EICU, OMOP, as_eicu, as_omop, invented, write_related

OPTIONS = ("ingest.min_support=1", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
KINDS = {"omop": (as_omop, OMOP), "eicu": (as_eicu, EICU)}
MAIN = {"omop": "visit_occurrence", "eicu": "patient"}


@pytest.fixture(scope="module", params=KINDS)
def plain(request, tmp_path_factory):
    """The kind, its tables, its columns, the rows of their cohort."""
    make, columns = KINDS[request.param]
    tables = make(invented(5))
    folder = write_related(tmp_path_factory.mktemp("plain") / "tables", tables, columns)
    return request.param, tables, columns, ingest(folder, folder.parent / "out", *OPTIONS, kind=request.param)


def changed(tables, cell):
    """The tables with each cell as `cell(column, it)` gives it."""
    return {name: [{n: cell(n, c) for n, c in row.items()} for row in rows] for name, rows in tables.items()}


DIALECTS = {
    "numbers of pandas": lambda name, c: f"{c}.0" if isinstance(c, int) and not isinstance(c, bool) else c,
    "blanks around ids": lambda name, c: f" {c}" if name.endswith(("_id", "id")) and c != "" else c,
    "nulls of a dump": lambda name, c: "\\N" if c in ("", None) else c,
    "nulls in words": lambda name, c: "NULL" if c in ("", None) else c,
    "times with T": lambda name, c: c.replace(" ", "T") if name.endswith("_datetime") else c,
    "times in UTC": lambda name, c: f"{c}+00:00" if name.endswith("_datetime") and c else c,
    "other capitals": lambda name, c: c.upper() if name in ("drugordercancelled", "hospitaldischargestatus") else c,
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_changes_no_row(tmp_path, plain, dialect):
    kind, tables, columns, wanted = plain
    folder = write_related(tmp_path / "tables", changed(tables, DIALECTS[dialect]), columns)
    assert ingest(folder, tmp_path / "out", *OPTIONS, kind=kind) == wanted


def test_whole_numbers_as_floats_with_gaps_change_no_row(tmp_path, plain):
    kind, tables, columns, wanted = plain
    folder = write_related(tmp_path / "tables", tables, columns, suffix=".parquet")
    for path in folder.iterdir():
        frame = pl.read_parquet(path)
        numbers = [name for name, dtype in frame.schema.items() if dtype == pl.Int64]
        frame = frame.with_columns(pl.col(numbers).cast(pl.Float64).fill_null(float("nan")))
        frame.write_parquet(path)
    assert ingest(folder, tmp_path / "out", *OPTIONS, kind=kind) == wanted


def test_columns_in_another_order_and_more_of_them_change_no_row(tmp_path, plain):
    kind, tables, columns, wanted = plain
    other = {name: " ".join(["note", *reversed(names.split())]) for name, names in columns.items()}
    more = {name: [{**row, "note": 'a "quoted", note\nof two lines'} for row in rows] for name, rows in tables.items()}
    assert ingest(write_related(tmp_path / "t", more, other), tmp_path / "out", *OPTIONS, kind=kind) == wanted


def test_tables_with_a_header_only_make_no_row_up(tmp_path, plain):
    kind, tables, columns, wanted = plain
    empty = ("drug_exposure", "procedure_occurrence", "death", "concept_relationship", "medication")
    less = {name: [] if name in empty else rows for name, rows in tables.items()}
    rows = ingest(write_related(tmp_path / "tables", less, columns), tmp_path / "out", *OPTIONS, kind=kind)
    assert set(wanted) <= set(rows)  # nobody died
    assert all(rows[visit]["current_labels"] == row["current_labels"] for visit, row in wanted.items())
    assert all("following medication: None." in row["input"] for row in rows.values())


def test_an_admission_without_rows_is_refused(tmp_path, plain, capsys):
    kind, tables, columns, _ = plain
    folder = write_related(tmp_path / "tables", {**tables, MAIN[kind]: []}, columns)
    assert main(["ingest", kind, str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "there is no admission in it" in capsys.readouterr().err


def test_a_column_decides_the_splits(tmp_path, plain):
    kind, tables, columns, _ = plain
    column = {"omop": "person_id", "eicu": "hospitalid"}[kind]
    rows = [{**row, "hospitalid": row.get("uniquepid", "")[-1:]} for row in tables[MAIN[kind]]]
    values = sorted({str(row[column]) for row in rows})
    folder = write_related(tmp_path / "tables", {**tables, MAIN[kind]: rows}, columns)
    options = (f"ingest.split_column={column}", f"ingest.held_out_values=[{values[0]}, {values[1]}]")
    found = ingest(folder, tmp_path / "out", *OPTIONS, *options, kind=kind)
    held = {str(row.get("person_id", row.get("uniquepid"))) for row in rows if str(row[column]) in values[:2]}
    assert {row["subject_id"] for row in found.values() if row["split"] == "held_out"} == held & {
        row["subject_id"] for row in found.values()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_that_must_be_there_is_named_when_it_is_not(tmp_path, kind, capsys):
    from ckd.ehr.layouts import LAYOUTS

    make, columns = KINDS[kind]
    folder = write_related(tmp_path / "tables", make(invented(5)), columns)
    for table in LAYOUTS[kind].tables.values():
        path = folder / f"{table.file}.csv"
        whole = path.read_bytes()
        for column in table.required.values():
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, [n for n in rows[0] if n != column], extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
            assert main(["ingest", kind, str(folder), "--out", str(tmp_path / "out")]) == 2
            assert f"{path}: no column '{column}'" in capsys.readouterr().err
            path.write_bytes(whole)


def told(tmp_path, capsys, kind, table, **cells):
    """What an ingest says of the tables of which some cells of every row are others."""
    make, columns = KINDS[kind]
    tables = make(invented(5))
    tables[table] = [{**row, **cells} for row in tables[table]]
    folder = write_related(tmp_path / "tables", tables, columns)
    main(["ingest", kind, str(folder), "--out", str(tmp_path / "out"), *OPTIONS])
    found = capsys.readouterr()
    return found.out + found.err


def test_drugs_whose_concept_has_no_name_are_counted(tmp_path, capsys):
    said = told(tmp_path, capsys, "omop", "drug_exposure", drug_concept_id=123456789)
    assert re.search(r"drugs: the concept of [\d,]+ rows has no name: they are called as drug_source_value says", said)


def test_stays_of_which_nobody_says_how_they_ended_are_counted(tmp_path, capsys):
    said = told(tmp_path, capsys, "eicu", "patient", hospitaldischargestatus="")
    assert re.search(r"no hospitaldischargestatus says how [\d,]+ stays ended: they count as survived", said)


def test_a_date_that_cannot_be_read_is_named_where_its_datetime_is_empty(tmp_path, capsys):
    said = told(tmp_path, capsys, "omop", "visit_occurrence", visit_start_date="20100401", visit_start_datetime="")
    assert "column 'visit_start_date' is written 99999999, expected as" in said
