"""A disk that is full, read-only or somebody else's ends a command in one line with exit code 3; what is done stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ckd.config import Config
from ckd.ehr.synthetic.tables import write_tables
from jobs.cli import main
from jobs.events import EventLog
from jobs.submit import overrides
from testbed.fulldisk import only
from testbed.rows import rows, write_jsonl
from tests.ehr.ingest_reference import cohort_files
from tests.student.student_cohort import OTHERS, make_base, make_cohort, make_config
from tests.student.trainings import VISITS, assert_same

STEPS = 6


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 MB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "ckd", str(place)]
    if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def read_only(disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def refused(words: list[str], capsys, disk: Path) -> str:
    """Run the command, which must end with exit code 3 and one line that names the disk; returns the line."""
    capsys.readouterr()
    assert main(words) == 3
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ckd: ")]
    assert len(said) == 1 and str(disk) in said[0] and "what is finished is kept" in said[0], said
    return said[0]


def test_a_disk_that_fills_up_while_the_student_trains_at_any_moment(disk, tmp_path, capsys):
    base = make_base(tmp_path / "base")

    def fresh(name: str) -> Config:
        config = make_config(disk / name, base)
        make_cohort(config.run.artifacts_root, VISITS)
        return config

    config = fresh("undisturbed")
    before = shutil.disk_usage(disk).used
    assert main(["train-student", *overrides(config)]) == 0
    need = shutil.disk_usage(disk).used - before
    wanted = load_file(f"{config.run.folder}/student/model.safetensors")
    for step in range(STEPS):
        config = fresh(f"{step}")
        with only(need * step // STEPS, disk):
            assert "no space left" in refused(["train-student", *overrides(config)], capsys, disk)
        assert not list(disk.rglob(".rank-*"))
        assert main(["train-student", *overrides(config)]) == 0
        assert_same(load_file(f"{config.run.folder}/student/model.safetensors"), wanted)


@pytest.fixture
def finished(disk, tmp_path, teacher_folder) -> list[str]:
    """A finished small run on the disk: the words of its configuration."""
    splits = {"train": (0, 40), "tuning": (40, 60), "held_out": (60, 80)}
    files = [f"data.{s}={write_jsonl(tmp_path / f'{s}.json', rows(*span, split=s))}" for s, span in splits.items()]
    models = [
        f"teacher.base_model={teacher_folder}/base",
        f"student.base_model={make_base(tmp_path / 'b', others=OTHERS)}",
    ]
    small = "data.shard_rows=16 teacher.dtype=float32 head.epochs=2 head.folds=2 student.epochs=1 student.max_length=32"
    places = [f"run.results={disk}/results", f"run.public_files={disk}", "evaluation.resamples=100"]
    words = [*files, *models, *places, *small.split()]
    assert main(["run", *words]) == 0
    return words


def contents(disk: Path) -> dict[str, bytes]:
    return {str(p.relative_to(disk)): p.read_bytes() for p in disk.rglob("*") if p.is_file() and p.suffix != ".jsonl"}


def test_every_stage_says_that_its_disk_is_full_or_read_only_and_loses_nothing(disk, finished, capsys):
    before = contents(disk)
    for command in ("soft-labels", "train-head", "evaluate", "report"):
        with only(0, disk):
            assert "no space left" in refused([command, *finished], capsys, disk)
        with read_only(disk):
            assert "read-only file system" in refused([command, *finished], capsys, disk)
        assert contents(disk).keys() == before.keys()
    assert main(["run", *finished]) == 0
    assert main(["verify", *finished]) == 0


def test_an_ingest_whose_disk_fills_up_at_any_moment(disk, tmp_path, capsys):
    write_tables(str(tmp_path / "tables"), 40, 3)
    words = ["ingest", "mimic3", str(tmp_path / "tables"), "ingest.partitions=3", "ingest.min_support=2", "--out"]
    before = shutil.disk_usage(disk).used
    assert main([*words, str(disk / "undisturbed")]) == 0
    need, wanted = shutil.disk_usage(disk).used - before, cohort_files(disk / "undisturbed")
    for step in range(STEPS):
        out = str(disk / f"{step}")
        with only(need * step // STEPS, disk):
            assert "no space left" in refused([*words, out], capsys, disk)
        assert main([*words, out]) == 0 and cohort_files(Path(out)) == wanted


def test_a_shard_for_which_there_is_no_room_names_its_file(disk, finished, capsys):
    (folder,) = disk.rglob("embeddings")
    shutil.rmtree(folder)
    capsys.readouterr()
    with only(4096, disk):
        assert main(["embed", *finished]) == 3
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ckd: ")]
    assert f"(first: shard 0: {folder}/part-00000.parquet: no space left on device); the others are kept" in said


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, capsys):
    base, folder = make_base(tmp_path / "base"), tmp_path / "others"
    config = make_config(folder, base)
    make_cohort(config.run.artifacts_root, VISITS)
    if subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode:
        pytest.skip("no folder can be protected from root here")
    try:
        assert "operation not permitted" in refused(["train-student", *overrides(config)], capsys, folder)
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_standard_output_that_nobody_reads_ends_a_command_quietly(tmp_path):
    words = [sys.executable, "-m", "jobs.cli", "status", f"run.results={tmp_path}"]
    for command, codes in ((words, {128 + signal.SIGPIPE}), ([*words[:3], "--help"], {0, 128 + signal.SIGPIPE})):
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        job.stdout.close()
        assert (job.wait(timeout=60), job.stderr.read()) in {(code, "") for code in codes}


def test_standard_output_on_a_full_disk_is_one_line(tmp_path):
    words = [sys.executable, "-m", "jobs.cli", "status", f"run.results={tmp_path}"]
    done = subprocess.run(words, stdout=Path("/dev/full").open("w"), stderr=subprocess.PIPE, text=True)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ckd: standard output: no space left on device")


def test_an_event_after_the_torn_line_of_a_killed_command_is_a_line_of_its_own(tmp_path):
    log = EventLog(str(tmp_path))
    log.append('{"event": "first"}')
    with log.local.open("ab") as file:
        file.write(b'{"event": "to')
    for name in ("second", "third"):
        EventLog(str(tmp_path)).append(json.dumps({"event": name}))
    lines = log.local.read_text().splitlines()
    assert lines == ['{"event": "first"}', '{"event": "to', '{"event": "second"}', '{"event": "third"}']
