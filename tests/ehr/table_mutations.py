"""Table sets of which one column was written otherwise, and what `ckd ingest` makes of them.

The plain cohort, a refusal, or another cohort whose counts say so. A mutation is its seed alone, so that one that
failed can be made again.

    python -m tests.ehr.table_mutations [--from 0] [--count 2000]
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa

from jobs.cli import main
from tests.ehr.ingest_reference import rows_of
from tests.ehr.mutated_sources import LAYOUTS, kind_of_column, plain, write_shard

COMPARED = ("input", "labels", "current_labels", "age", "sex", "ethnicity", "insurance", "admission_type")
COUNTS = ("admissions", "patients", "rows", "cells", "without_patient", "other_sex_words", "unknown", "unmapped_codes")
COUNTS += ("codes_passed_over",)


def always(text):
    return lambda cell: text


def time(form):
    """A time in another form: {d} day, {t} time of day, {y} {m} {n} year, month, day."""
    return lambda c: form.format(d=c[:10], t=c[11:], y=c[:4], m=c[5:7], n=c[8:10])


WORDS = {f"word {w}": always(w) for w in ("NULL", "NA", "N/A", "nan", "None", "\\N", "", " ", "NaT", "<NA>")}
TIMES = ("{d}T{t}", "{d}T{t}Z", "{d} {t} UTC", "{d} {t}+00:00", "{d} {t}.000", "{d}", " {d} {t} ")
TIMES += ("{n}.{m}.{y} {t}", "{m}/{n}/{y}", "{y}{m}{n}", "{y}/{m}/{n} {t}", "{d} {t} p.m.", "{t}")
NO_TIMES = ("5681554200", "5681554200000", "9999-12-31", "0000-00-00 00:00:00", "soon")
KINDS = {
    "time": {**{form: time(form) for form in TIMES}, **{cell: always(cell) for cell in NO_TIMES}},
    "id": {
        "decimal": lambda c: f"{c}.0",
        "padded": lambda c: f"  {c} ",
        "other": lambda c: f"H{c}",
        "longer": lambda c: f"{c}9",
        "zeros": lambda c: f"000{c}",
        "scientific": lambda c: f"{int(c.rpartition('-')[2]):.2E}",
        "half": lambda c: f"{c}.5",
    },
    "flag": {cell: always(cell) for cell in ("0.0", "false", "FALSE", "no", "N", " 0 ", "2", "nein", "-")},
    "number": {
        "decimal": lambda c: f"{c}.0",
        "padded": lambda c: f" {c} ",
        "word": always("first"),
        "comma": lambda c: f"{c},0",
    },
    "age": {
        "unit": lambda c: f"{c} J.",
        "years": lambda c: f"{c} years",
        "plus": lambda c: f"{c}+",
        "months": lambda c: f"{c} mo",
        "decimal": lambda c: f"{c}.5",
        "word": always("old"),
        "none": always("-1"),
        "unknown": always("999"),
        "padded": lambda c: f" {c}",
    },
    "sex": {
        "small": str.lower,
        "german": lambda c: {"F": "w", "M": "m"}[c[0]],
        "long": {"F": "Female", "M": "Male", "Female": "F", "Male": "M"}.get,
        "polish": lambda c: {"F": "K", "M": "M"}[c[0]],
        "iso": lambda c: {"F": "2", "M": "1"}[c[0]],
        "spanish": lambda c: {"F": "M", "M": "H"}[c[0]],
        "spanish 2": lambda c: {"F": "M", "M": "V"}[c[0]],
        "numbers": lambda c: {"F": "0", "M": "1"}[c[0]],
        "other": always("X"),
        "padded": lambda c: f" {c} ",
    },
    "code": {
        "pointed": lambda c: f"{c[:3]}.{c[3:]}",
        "padded": lambda c: f" {c} ",
        "small": str.lower,
        "two": lambda c: f"{c};{c}",
        "word": always("sepsis"),
        "snomed": always("44054006"),
    },
    "version": {
        "word": lambda c: f"ICD-{c}-CM",
        "decimal": lambda c: f"{c}.0",
        "eleven": always("11"),
        "text": always("ICD"),
    },
    "drug": {"padded": lambda c: f"  {c} ", "blanks": lambda c: c.replace(" ", "  ")},
    "name": {"padded": lambda c: f" {c}  "},
    "concept": {
        "decimal": lambda c: f"{c}.0",
        "padded": lambda c: f" {c} ",
        "none": always("0"),
        "unknown": always("999999999"),
        "word": always("Inpatient"),
        "half": lambda c: f"{c}.5",
    },
    "word": {
        "small": str.lower,
        "capitals": str.upper,
        "padded": lambda c: f" {c} ",
        "first": lambda c: c[:1],
        "other": always("something"),
        "number": always("1"),
    },
    "event": {
        "small": str.lower,
        "padded": lambda c: f" {c} ",
        "one slash": lambda c: c.replace("//", "/"),
        "other": lambda c: f"X{c}",
        "cut": lambda c: c[:-1],
        "pointed": lambda c: f"{c[:-2]}.{c[-2:]}",
        "type": lambda c: c.replace("ICD//9", "ICD9CM"),
    },
}
# Ids that stand in one table alone: all of them written otherwise are other ids, and nothing is wrong.
ONCE = (("meds", "subject_id"), ("eicu", "patienthealthsystemstayid"), ("eicu", "uniquepid"))
WAYS = ("crlf", "bom", "quoted", "gz", "zst", "upper", "semicolons", "latin1", "parquet")
TYPES = {
    "whole": pl.Int64, "float": pl.Float64, "decimal": pl.Decimal(18, 0), "category": pl.Categorical,
    "moment": pl.Datetime("ms"), "day": pl.Date,
}  # fmt: skip


def mutation(seed):
    """Kind of source, its tables, how each file is written, and in words what was done."""
    rng = random.Random(seed)
    kind = rng.choice(list(LAYOUTS))
    tables, how = plain(kind), {}
    table = rng.choice([name for name, rows in tables.items() if rows and name != "concept_relationship"])
    column = rng.choice(
        [name for name in LAYOUTS[kind][table].split() if kind_of_column(kind, name) and name in tables[table][0]]
    )
    written = rng.random() < 0.15, rng.random() < 0.1
    if kind != "meds" and written[0]:
        how[table] = (rng.choice(list(TYPES)), column)
        return kind, tables, how, f"{kind}: {table}.{column} as {how[table][0]} of Parquet"
    if kind != "meds" and written[1]:
        how[table] = (
            rng.choice(["crlf", "bom", "quoted", "gz", "zst", "upper", "semicolons", "latin1", "parquet"]),
            "",
        )
        return kind, tables, how, f"{kind}: {table} written with {how[table][0]}"
    name, change = rng.choice([*KINDS[kind_of_column(kind, column)].items(), *rng.sample(list(WORDS.items()), 3)])
    # One F that became M is another sex; a whole column of M and H is Spanish.
    share = 1.0 if "spanish" in name else rng.choice([1.0, 0.5, 0.1])
    if (kind, column) in ONCE:
        share = min(share, 0.5)
    rows = [n for n in range(len(tables[table])) if share == 1 or rng.random() < share] or [0]
    for n in rows:
        if cell := tables[table][n].get(column):
            tables[table][n][column] = change(cell)
    return kind, tables, how, f"{kind}: {table}.{column} {name!r} in {len(rows)} of {len(tables[table])} rows"


def write(folder, kind, tables, how):
    """The tables as CSV, but those in `how` otherwise."""
    folder.mkdir(parents=True)
    if kind == "meds":
        write_shard(folder / "data" / "train" / "0.parquet", tables["events"])
        return folder
    for name, standard in LAYOUTS[kind].items():
        columns = [c for c in standard.split() if any(c in row for row in tables[name])]
        text, (way, column) = io.StringIO(), how.get(name, ("", ""))
        separator = ";" if way == "semicolons" else ","
        writer = csv.writer(
            text,
            delimiter=separator,
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if way == "quoted" else csv.QUOTE_MINIMAL,
        )
        writer.writerow([c.upper() if way == "upper" else c for c in columns])
        writer.writerows([[row.get(c, "") for c in columns] for row in tables[name]])
        write_file(folder / f"{name}.csv", text.getvalue(), way, column)
    return folder


def write_file(path, text, way, column):
    data = text.encode("utf-8")
    if way in TYPES or way == "parquet":
        rows = pl.read_csv(io.BytesIO(data), infer_schema=False)
        if way in ("moment", "day"):
            rows = rows.with_columns(pl.col(column).str.to_datetime(strict=False).cast(TYPES[way]))
        elif way in TYPES:
            rows = rows.with_columns(pl.col(column).cast(TYPES[way], strict=False))
        rows.write_parquet(path.with_suffix(".parquet"))
    elif way == "zst":
        path.with_suffix(".csv.zst").write_bytes(pa.compress(data, codec="zstd", asbytes=True))
    elif way == "gz":
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(data))
    else:
        changed = {"crlf": data.replace(b"\n", b"\r\n"), "bom": b"\xef\xbb\xbf" + data, "latin1": data + b"\xe4\n"}
        path.write_bytes(changed.get(way, data))


def ingested(kind, folder, out):
    """Exit code, the last line of errors, the rows and the counts of a cohort."""
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = main(["ingest", kind, str(folder), "--out", str(out), "ingest.min_support=1"])
    if code:
        return code, errors.getvalue(), {}, {}
    rows = {visit: tuple(str(row[name]) for name in COMPARED) for visit, row in rows_of(out).items()}
    card = json.loads((out / "card.json").read_text().replace(str(folder), ""))
    of_source = {name: card["source"].get(name) for name in ("codes_by", "unordered")}
    return 0, "", rows, {**of_source, **{name: card.get(name) for name in COUNTS}}


def verdict(seed, root, known):
    """("equal" | "refused" | "told" | "silent", what was done and what came of it). `known`: the plain cohorts."""
    kind, tables, how, what = mutation(seed)
    if kind not in known:
        known[kind] = ingested(kind, write(root / f"plain-{kind}", kind, plain(kind), {}), root / f"plain-{kind}-out")
    code, line, rows, counts = ingested(kind, write(root / f"{seed}", kind, tables, how), root / f"{seed}-out")
    if code:
        return ("refused" if code == 2 and line.count("\n") == 1 else "silent"), f"{what}: exit {code}, {line}"
    if rows == known[kind][2]:
        return "equal", what
    return ("told" if counts != known[kind][3] else "silent"), what


def run(argv=None):
    """Try many seeds; the exit code is the number of those that changed a cohort in silence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    arguments, found, known = parser.parse_args(argv), Counter(), {}
    with tempfile.TemporaryDirectory() as root:
        for seed in range(arguments.first, arguments.first + arguments.count):
            kind, what = verdict(seed, Path(root), known)
            found[kind] += 1
            if kind == "silent":
                print(f"seed {seed}: {what}")  # noqa: T201
    print(dict(found))  # noqa: T201
    return found["silent"]


if __name__ == "__main__":
    raise SystemExit(run())
