"""What is wrong with the tables or the command is refused in one line, and nothing half-made is left."""

import gzip

import pytest

from jobs.cli import main
from tests.ehr.ehr_tables import write_meds, write_mimic3
from tests.ehr.ingest_reference import cohort_files, ingest, replaced, returning

MARKER = "ZQMARKERPATIENTQZ"


def refused(capsys, folder, out, *settings, kind="mimic3"):
    """The one line of a refused command, which leaves no cohort."""
    capsys.readouterr()
    assert main(["ingest", kind, str(folder), "--out", str(out), *settings]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("ckd: "), said.err
    assert MARKER not in said.out + said.err
    assert not (out / "artifact.json").exists()
    return said.err


def bad_bytes(name, *edits):
    """An edit of one file's bytes."""

    def edit(folder):
        path = folder / name
        data = path.read_bytes()
        for old, new in edits:
            assert old in data
            data = data.replace(old, new, 1)
        path.write_bytes(data)

    return edit


def header_without(name, column):
    return bad_bytes(name, (column.encode(), b"nothing"))


def truncated(folder):
    path = folder / "PRESCRIPTIONS.csv"
    (folder / "PRESCRIPTIONS.csv.gz").write_bytes(gzip.compress(path.read_bytes())[:-30])
    path.unlink()


def spreadsheet(folder):
    path = folder / "DIAGNOSES_ICD.csv"
    path.write_bytes(path.read_bytes().replace(b",0389", b",389"))


# What happens to the folder -> words that the one line must hold.
BROKEN = {
    "missing table": (
        lambda folder: (folder / "PRESCRIPTIONS.csv").unlink(),
        ("no table 'prescriptions'", "expected prescriptions.csv"),
    ),
    "missing column": (header_without("ADMISSIONS.csv", "DISCHTIME"), ("ADMISSIONS.csv", "no column 'dischtime'")),
    "missing drug": (header_without("PRESCRIPTIONS.csv", "DRUG,"), ("PRESCRIPTIONS.csv", "no column 'drug'")),
    "duplicate hadm_id": (
        bad_bytes("ADMISSIONS.csv", (b",11,2151", b",10,2151")),
        ("ADMISSIONS.csv:2", "ADMISSIONS.csv:3", "keep one row"),
    ),
    "no hadm_id": (bad_bytes("ADMISSIONS.csv", (b",11,2151", b",,2151")), ("ADMISSIONS.csv:3", "no visit id")),
    "patient twice": (bad_bytes("PATIENTS.csv", (b",2,F", b",1,F")), ("PATIENTS.csv:2", "PATIENTS.csv:3")),
    "a flag of nothing": (
        bad_bytes("ADMISSIONS.csv", (b",0,1\n", b",maybe,1\n")),
        ("ADMISSIONS.csv:2", "neither 0/1 nor true/false"),
    ),
    "mixed encodings": (
        bad_bytes("PRESCRIPTIONS.csv", (b"Zinc", b"Zinc"), (b"Zinc", b"caf\xe9")),
        ("PRESCRIPTIONS.csv:2", "not UTF-8", "iconv"),
    ),
    "a comma too many": (bad_bytes("PRESCRIPTIONS.csv", (b"Zinc", b"Zinc, acid")), ("PRESCRIPTIONS.csv:2", "cells")),
    "an open quote": (bad_bytes("PRESCRIPTIONS.csv", (b"Zinc", b'"Zinc')), ("PRESCRIPTIONS.csv:2", "quote")),
    "truncated gzip": (truncated, ("PRESCRIPTIONS.csv.gz", "ends too early", "get the file again")),
    "lost leading zeros": (spreadsheet, ("DIAGNOSES_ICD.csv:2", "leading zeros", "dtype=str")),
    "no rows": (
        lambda folder: (folder / "ADMISSIONS.csv").write_bytes(
            (folder / "ADMISSIONS.csv").read_bytes().split(b"\n")[0]
        ),
        ("no admission",),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_and_works_with_the_same_command_once_mended(tmp_path, capsys, what):
    breaks, words = BROKEN[what]
    folder = write_mimic3(tmp_path / "tables", returning())
    breaks(folder)
    line = refused(capsys, folder, tmp_path / "out")
    assert all(word in line for word in words), line
    for path in folder.iterdir():
        path.unlink()
    write_mimic3(folder, returning())
    assert ingest(folder, tmp_path / "out") == ingest(folder, tmp_path / "undisturbed" / "out")
    assert cohort_files(tmp_path / "out") == cohort_files(tmp_path / "undisturbed" / "out")


def test_another_setting_is_refused_with_its_name_and_leaves_the_cohort_as_it_is(tmp_path, capsys):
    folder = write_mimic3(tmp_path / "tables", returning())
    ingest(folder, tmp_path / "out")
    before = cohort_files(tmp_path / "out")
    capsys.readouterr()
    assert main(["ingest", "mimic3", str(folder), "--out", str(tmp_path / "out"), "ingest.coding_delay_days=5"]) == 2
    line = capsys.readouterr().err
    assert (
        "ingest.coding_delay_days=3" in line
        and "ingest.coding_delay_days=5" in line
        and "give another --out" in line
        and line.count("\n") == 1
    )
    (folder / "PRESCRIPTIONS.csv").write_bytes(
        (folder / "PRESCRIPTIONS.csv").read_bytes() + b"1,1,10,,,,MAIN,Heparin,,PO\n"
    )
    assert main(["ingest", "mimic3", str(folder), "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert "made with input=" in line and line.count("\n") == 1
    assert cohort_files(tmp_path / "out") == before


SETTINGS = {
    "no such column": (
        ("ingest.split_column=site", 'ingest.held_out_values=["B"]'),
        ("ingest.split_column=site", "no such column", "ethnicity"),
    ),
    "a value nobody has": (
        ("ingest.split_column=insurance", 'ingest.held_out_values=["B"]'),
        ("ingest.held_out_values", "'insurance'"),
    ),
    "a tuning value nobody has": (
        ("ingest.split_column=INSURANCE", 'ingest.tuning_values=["B"]'),
        ("ingest.tuning_values", "'INSURANCE'"),
    ),
    "values without a column": (('ingest.held_out_values=["B"]',), ("split_column", "held_out_values")),
    "one value in both": (
        ("ingest.split_column=x", 'ingest.held_out_values=["B"]', 'ingest.tuning_values=["B"]'),
        ("both",),
    ),
    "no subject to train": (("ingest.tuning_share=0.5", "ingest.held_out_share=0.5"), ("no subject to train",)),
    "unknown method": (("ingest.treatment=efficacy",), ("ingest.treatment",)),
    "a delay beyond all time": (("ingest.coding_delay_days=1e12",), ("ingest.coding_delay_days", "3650")),
    "more folds than patients": (("ingest.folds=1000",), ("ingest.folds", "100")),
    "unknown key": (("ingest.delay=3",), ("delay",)),
}


def test_a_word_that_is_no_key_and_value_is_refused(tmp_path, capsys):
    folder = write_mimic3(tmp_path / "tables", returning())
    assert main(["ingest", "mimic3", str(folder), "ingest.min_support", "5", "--out", str(tmp_path / "out")]) == 2
    assert "'ingest.min_support': expected key=value" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", SETTINGS)
def test_a_setting_that_cannot_be_is_refused_and_the_right_one_then_works(tmp_path, capsys, what):
    settings, words = SETTINGS[what]
    folder = write_mimic3(tmp_path / "tables", returning())
    line = refused(capsys, folder, tmp_path / "out", *settings)
    assert all(word in line for word in words), line
    assert ingest(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("out", "words"),
    [("file", "FileExistsError"), ("file/cohort", "NotADirectoryError"), ("s3://bucket", "a folder of its own")],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path, capsys, out, words):
    folder = write_mimic3(tmp_path / "tables", returning())
    (tmp_path / "file").write_text("of somebody")
    assert main(["ingest", "mimic3", str(folder), "--out", out if "://" in out else str(tmp_path / out)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("ckd: --out ") and words in line and line.count("\n") == 1
    assert (tmp_path / "file").read_text() == "of somebody"


def test_a_part_of_somebody_else_is_named_and_stays(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000.parquet").write_bytes(b"of somebody")
    line = refused(capsys, write_mimic3(tmp_path / "tables", returning()), tmp_path / "out")
    assert "part-00000.parquet: damaged, or not one of this project" in line
    assert (tmp_path / "out" / "part-00000.parquet").read_bytes() == b"of somebody"


WRITERS = {
    "line ends of Windows": lambda data: data.replace(b"\n", b"\r\n"),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "no last line end": lambda data: data.rstrip(b"\n"),
    "blank lines": lambda data: data.replace(b"\n", b"\n\n", 3) + b"\n\n",
    "commas at the end": lambda data: data.replace(b"\n", b",\n"),
    "quotes around all": lambda data: b'"' + data.rstrip(b"\n").replace(b",", b'","').replace(b"\n", b'"\n"') + b'"\n',
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_other_programs_write_is_read_as_well(tmp_path, writer):
    folder = write_mimic3(tmp_path / "tables", returning())
    wanted = ingest(folder, tmp_path / "out")
    for path in folder.iterdir():
        path.write_bytes(WRITERS[writer](path.read_bytes()))
    assert ingest(folder, tmp_path / "other") == wanted


def test_a_folder_or_kind_that_is_not_there_is_refused(tmp_path, capsys):
    assert "no such folder" in refused(capsys, tmp_path / "nowhere", tmp_path / "out")
    assert "no table 'visits'" in refused(
        capsys, write_mimic3(tmp_path / "tables", returning()), tmp_path / "out", kind="tables"
    )
    assert "no *.parquet" in refused(capsys, tmp_path / "tables", tmp_path / "out", kind="meds")
    with pytest.raises(SystemExit):
        main(["ingest", "i2b2", str(tmp_path), "--out", str(tmp_path / "out")])


def test_meds_without_a_visit_id_is_refused_with_the_reason(tmp_path, capsys):
    folder = write_meds(
        tmp_path / "meds",
        [{"subject_id": 1, "time": None, "code": "GENDER//F"}],
        columns={"subject_id", "time", "code"},
    )
    line = refused(capsys, folder, tmp_path / "out", kind="meds")
    assert "no column 'hadm_id' or 'visit_id'" in line and "nor the next visit" in line


@pytest.mark.parametrize(
    ("table", "cells"),
    [
        ("admissions", {"hadm_id": 10, "ethnicity": MARKER}),
        ("admissions", {"hadm_id": "", "ethnicity": MARKER}),
        ("admissions", {"hospital_expire_flag": MARKER}),
        ("patients", {"subject_id": 1, "gender": MARKER}),
    ],
)
def test_an_error_quotes_no_cell(tmp_path, capsys, table, cells):
    refused(capsys, write_mimic3(tmp_path / "tables", replaced(returning(), table, 3, **cells)), tmp_path / "out")
