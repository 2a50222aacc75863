"""MIMIC tables as others keep them: Parquet, zstd, a folder of parts, and the folders and names of MIMIC-IV 1.0."""

import polars as pl
import pyarrow as pa
import pytest

from ckd.ehr.canonical import TABLE_NAMES
from ckd.ehr.kinds import open_source
from ckd.ehr.partition import partition
from ckd.errors import DataError
from tests.ehr.ehr_tables import MIMIC4, as_mimic4, small_mimic3, write_mimic3, write_mimic4

COLUMNS = {"admissions": MIMIC4["admissions"].replace(" race ", " ethnicity ")}


def frames(kind, folder):
    source = open_source(kind, str(folder))
    return {table: source.scan(table).drop("place").collect() for table in TABLE_NAMES}


def packed(folder, how):
    """Every CSV file of a folder in another way."""
    for path in sorted(folder.rglob("*.csv")):
        if how == ".csv.zst":
            path.with_suffix(".csv.zst").write_bytes(pa.compress(path.read_bytes(), codec="zstd", asbytes=True))
        else:
            rows = pl.read_csv(path, infer_schema=False)
            parts = path.with_suffix(".parquet" if how == "spark" else "") / "part-0.parquet"
            target = path.with_suffix(".parquet") if how == ".parquet" else parts
            rows.write_parquet(target, mkdir=True)
            if how == "spark":
                (target.parent / "_SUCCESS").touch()
        path.unlink()
    return folder


@pytest.mark.parametrize("how", [".parquet", ".csv.zst", "parts", "spark"])
def test_mimic_tables_say_the_same_in_whatever_they_are_packed(tmp_path, how):
    rows = small_mimic3()
    for kind, write, tables in (("mimic3", write_mimic3, rows), ("mimic4", write_mimic4, as_mimic4(rows))):
        plain = frames(kind, write(tmp_path / kind / "plain", tables, gz=False))
        found = frames(kind, packed(write(tmp_path / kind / "packed", tables, gz=False), how))
        assert all(plain[table].equals(found[table]) for table in TABLE_NAMES)


def test_typed_parquet_gives_what_csv_gives(tmp_path):
    plain = write_mimic4(tmp_path / "plain", as_mimic4(small_mimic3()), gz=False)
    typed = write_mimic4(tmp_path / "typed", as_mimic4(small_mimic3()), gz=False)
    for path in (typed / "hosp").glob("*.csv"):
        rows = pl.read_csv(path, infer_schema=False)
        whole = [
            c for c in rows.columns if c in ("subject_id", "hadm_id", "anchor_age", "hospital_expire_flag", "seq_num")
        ]
        times = [c for c in rows.columns if c.endswith("time")]
        rows = rows.with_columns(pl.col(whole).cast(pl.Float64), pl.col(times).str.to_datetime(strict=False))
        rows.write_parquet(path.with_suffix(".parquet"))
        path.unlink()
    before, after = frames("mimic4", plain), frames("mimic4", typed)
    assert all(before[table].equals(after[table]) for table in TABLE_NAMES)


def test_mimic_iv_1_keeps_admissions_in_core_and_calls_race_ethnicity(tmp_path):
    tables = as_mimic4(small_mimic3())
    plain = frames("mimic4", write_mimic4(tmp_path / "2", tables, gz=False))
    for row in tables["admissions"]:
        row["ethnicity"] = row.pop("race")
    folder = write_mimic4(tmp_path / "1", tables, gz=False, columns=COLUMNS)
    (folder / "core").mkdir()
    for name in ("admissions.csv", "patients.csv"):
        (folder / "hosp" / name).rename(folder / "core" / name)
    found = frames("mimic4", folder)
    assert found["visits"]["ethnicity"].to_list() == ["WHITE", "ASIAN", "WHITE"]
    assert all(plain[table].equals(found[table]) for table in TABLE_NAMES)
    (folder / "patients.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"core/patients\.csv and patients\.parquet are there"):
        open_source("mimic4", str(folder))


def test_zstd_that_is_cut_off_or_damaged_is_refused_with_its_file(tmp_path):
    folder = packed(write_mimic4(tmp_path / "t", as_mimic4(small_mimic3()), gz=False), ".csv.zst")
    path = folder / "hosp" / "prescriptions.csv.zst"
    lines = b"".join(b"1,11,%d,2150-01-01 00:00:00,,MAIN,Zebra,PO\n" % n for n in range(100_000))
    whole = pa.compress(MIMIC4["prescriptions"].replace(" ", ",").encode() + b"\n" + lines, codec="zstd", asbytes=True)
    for number, data in enumerate((whole[:-20], whole[: len(whole) // 2], whole[:5])):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"prescriptions\.csv\.zst.*(cannot be read|is empty)") as found:
            partition(open_source("mimic4", str(folder)), str(tmp_path / f"work{number}"), 1)
        assert "Zebra" not in str(found.value)
