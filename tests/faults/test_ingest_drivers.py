"""Two `ckd ingest` into one --out: one of them makes the whole cohort, the other says who is at work."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

import jobs.ingest
import jobs.ingest_steps
from ckd.ehr.synthetic import tables as synthetic_tables
from ckd.errors import MismatchError
from ckd.visits.inputs import Input
from ckd.visits.labels import CCS25
from jobs.cli import main
from tests.ehr.ehr_tables import write_mimic3
from tests.ehr.ingest_reference import cohort_files, ingest, returning

PARTS = ("ingest.partitions=6", "ingest.min_support=2")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    synthetic_tables.write_tables(str(folder), 60, 3)
    return folder


@pytest.fixture(scope="module")
def alone(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    ingest(tables, out, *PARTS)
    return cohort_files(out)


def started(tables, out):
    words = ("ingest", "mimic3", tables, "--out", out, *PARTS)
    arguments = [sys.executable, "-m", "jobs.cli", *map(str, words)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped_at(process, out, pattern):
    """SIGSTOP as soon as something in `out` fits `pattern`."""
    deadline = time.monotonic() + 60
    while not any(out.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGSTOP)


@pytest.mark.parametrize(
    "moment", [".ckd-ingest-*/tables.*.tmp/visits", ".ckd-ingest-*/assembled-00002", "part-00001.parquet", "card.json"]
)
def test_a_second_driver_names_the_first_which_is_stopped_and_then_makes_all(tmp_path, tables, alone, moment):
    out = tmp_path / "out"
    with started(tables, out) as first:
        stopped_at(first, out, moment)
        with started(tables, out) as second:
            _, said = second.communicate(timeout=60)
        os.kill(first.pid, signal.SIGCONT)
        first.communicate(timeout=60)
    assert second.returncode == 3 and said.count("\n") == 1, said
    assert f"{out}: 'ckd ingest' (process {first.pid} on " in said
    assert first.returncode == 0 and cohort_files(out) == alone
    assert not list(out.glob(".*")) and not list(tmp_path.glob(".*"))


def test_two_drivers_started_together_make_one_whole_cohort(tmp_path, tables, alone):
    out = tmp_path / "out"
    with started(tables, out) as first, started(tables, out) as second:
        said = [process.communicate(timeout=120)[1] for process in (first, second)]
    codes = sorted((first.returncode, second.returncode))
    assert codes in ([0, 0], [0, 3]), said
    assert cohort_files(out) == alone
    assert all(line.startswith(f"ckd: {out}: 'ckd ingest' (process ") for line in "".join(said).splitlines())


def test_where_no_lock_can_be_had_two_drivers_still_make_the_same_bytes(tmp_path, tables, alone, monkeypatch):
    """The steps of the second happen inside those of the first."""
    monkeypatch.setattr(jobs.ingest, "lease", lambda *_: contextlib.nullcontext(False))
    out, merged, codes = tmp_path / "out", jobs.ingest_steps.merged_codes, []

    def another_driver_comes(work, partitions):
        codes.append(None)
        if len(codes) == 1:
            codes[0] = main(["ingest", "mimic3", str(tables), "--out", str(out), *PARTS])
        return merged(work, partitions)

    monkeypatch.setattr(jobs.ingest_steps, "merged_codes", another_driver_comes)
    assert main(["ingest", "mimic3", str(tables), "--out", str(out), *PARTS]) == 3
    assert codes == [0, None] and cohort_files(out) == alone


@pytest.mark.parametrize(("moment", "inner", "outer"), [("merged_codes", 0, 2), ("merged_summary", 2, 0)])
def test_without_a_lock_a_driver_of_other_settings_never_mixes_its_parts_in(
    tmp_path, tables, monkeypatch, capsys, moment, inner, outer
):
    """It comes before the first one's parts are written, or after."""
    monkeypatch.setattr(jobs.ingest, "lease", lambda *_: contextlib.nullcontext(False))
    out, step, codes = tmp_path / "out", getattr(jobs.ingest_steps, moment), []

    def another_driver_comes(work, partitions):
        codes.append(None)
        if len(codes) == 1:
            codes[0] = main(["ingest", "mimic3", str(tables), "--out", str(out), *PARTS, "seed=7"])
        return step(work, partitions)

    monkeypatch.setattr(jobs.ingest_steps, moment, another_driver_comes)
    assert main(["ingest", "mimic3", str(tables), "--out", str(out), *PARTS]) == outer
    said = capsys.readouterr().err
    assert codes[0] == inner and said.count("\n") == 1 and ": made with " in said
    monkeypatch.undo()
    assert Input(str(out), "train", CCS25).content_hash(), (
        "what the refused one left does not make it an unfinished cohort"
    )
    settings = (*PARTS, *(["seed=7"] if inner == 0 else []))
    ingest(tables, out, *settings)  # finished already; sweeps
    ingest(tables, tmp_path / "undisturbed", *settings)
    assert cohort_files(out) == cohort_files(tmp_path / "undisturbed")


OTHERS = {
    "a card": ("card.json", '{"title": "Mother\'s Day"}'),
    "a table": ("association.csv", "a,b\n"),
    "a folder of work": ("_work/tables/notes.txt", "mine"),
    "notes": ("notes.txt", "mine"),
    "a part of nobody": ("part-x.parquet", "mine"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_others_files_in_out_are_refused_in_one_line_and_stay(tmp_path, capsys, what):
    name, text = OTHERS[what]
    path, out = tmp_path / "out" / name, tmp_path / "out"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    folder = write_mimic3(tmp_path / "tables", returning())
    assert main(["ingest", "mimic3", str(folder), "--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert line == (
        f"ckd: {out}: holds {name.partition('/')[0]}, which this ingest has not made; "
        "give another --out, or move away what is yours and delete the rest\n"
    )
    assert [str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()] == [name] and path.read_text() == text


def test_hidden_files_of_others_stay_beside_a_cohort(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    names = (".notes.tmp", ".card.json.tmp", ".DS_Store")
    for name in names:
        (out / name).write_text("mine")
    ingest(write_mimic3(tmp_path / "tables", returning()), out)
    assert all((out / name).read_text() == "mine" for name in names)


def test_a_part_of_other_settings_ends_the_command_before_it_reads(tmp_path, tables, capsys):
    out = tmp_path / "out"
    ingest(tables, tmp_path / "other", *PARTS, "seed=7")
    out.mkdir()
    (tmp_path / "other" / "part-00003.parquet").rename(out / "part-00077.parquet")
    capsys.readouterr()
    assert main(["ingest", "mimic3", str(tables), "--out", str(out), *PARTS]) == MismatchError.exit_code
    said = capsys.readouterr()
    assert "part-00077.parquet: made with seed=7, this run has seed=42" in said.err and "partitioned" not in said.out


def test_a_finished_cohort_lists_every_file_and_a_changed_one_is_found(tmp_path, tables, capsys):
    out = tmp_path / "out"
    rows = ingest(tables, out, *PARTS)
    listed = json.loads((out / "artifact.json").read_text())["files"]
    assert set(listed) == {path.name for path in out.iterdir()} - {"artifact.json"}
    assert sum(pq.read_metadata(out / name).num_rows for name in listed if name.startswith("part-")) == len(rows)
    part = out / "part-00002.parquet"
    part.write_bytes(part.read_bytes()[:-9] + b"X" + part.read_bytes()[-8:])
    assert main(["ingest", "mimic3", str(tables), "--out", str(out), *PARTS]) == 2
    assert "part-00002.parquet: missing or changed since it was written" in capsys.readouterr().err
