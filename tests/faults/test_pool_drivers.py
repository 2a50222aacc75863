"""Drivers, the head, disks and files fail during the teacher's pass over Ray actors; it ends as undisturbed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.raycluster import CHECKOUT, cluster, stop, until
from tests.faults.fake_embed import CODE, SHARDS, assert_equal_and_clean, parts, starts

pytestmark = pytest.mark.faults


def embedding(head, folder, log="output.txt", seconds=0.8, worker="FakeEmbedWorker", workers=2, gpus=1):
    words = (
        f"teacher.workers={workers}",
        f"teacher.gpus_per_worker={gpus}",
    )  # with a GPU an actor runs two shards at a time
    return head.driver("-c", CODE, str(folder), str(seconds), worker, *words, cwd=CHECKOUT, log=folder / log)


def here(folder, worker="FakeEmbedWorker"):
    """The same in one process without Ray: exit code and what it printed."""
    words = [sys.executable, "-c", CODE, str(folder), "0", worker, "teacher.workers=0"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=CHECKOUT, timeout=120)
    return done.returncode, done.stdout + done.stderr


def finish(job, folder, log="output.txt", code=0):
    assert job.wait(timeout=150) == code, (folder / log).read_text()[-4000:]
    return (folder / log).read_text()


def done(folder):
    """The embeddings that are there, and when they were written."""
    place = Path(folder, "results/t/artifacts/embeddings")
    return {path.name: path.stat().st_mtime_ns for path in place.glob("part-*.parquet")} if place.exists() else {}


def test_two_drivers_at_once_on_the_same_run_end_in_one_whole_set_of_parts(head, machines, folder, undisturbed):
    jobs = [embedding(head, folder, log=f"{n}.txt", seconds=0.3) for n in range(2)]
    for n, job in enumerate(jobs):
        finish(job, folder, log=f"{n}.txt")
    assert_equal_and_clean(folder, undisturbed)
    assert len(starts(folder)) > SHARDS, "they met at some shards"


def test_a_killed_driver_is_started_again_and_what_was_done_stays(head, machines, folder, undisturbed):
    job = embedding(head, folder)
    until(lambda: job.poll() is not None or len(done(folder)) >= 3, 90, "three parts")
    stop(job)
    before = done(folder)
    finish(embedding(head, folder, log="again.txt"), folder, "again.txt")
    assert_equal_and_clean(folder, undisturbed)
    after = done(folder)
    changed = {name for name, time in before.items() if after[name] != time}
    assert len(changed) <= 2, "at most what the killed driver's actors still wrote"


def test_when_the_head_dies_its_driver_ends_and_the_run_continues_on_another_cluster(
    head, machines, folder, undisturbed
):
    with cluster({"c": {"gpus": 1}}, cpus=0) as first:
        job = embedding(first, folder, workers=1)
        until(lambda: job.poll() is not None or len(done(folder)) >= 3, 90, "three parts")
        first.head.vanish()
        assert job.wait(timeout=90) != 0
        before = set(done(folder))
    finish(embedding(head, folder, "again.txt", seconds=0.1), folder, "again.txt")
    assert_equal_and_clean(folder, undisturbed)
    again = (folder / "again.txt").read_text()
    assert (
        f"embed: {len(before)} of {SHARDS} shards done" in again
        or f"embed: {len(before) + 1} of {SHARDS} shards done" in again
    )


def test_a_machine_killed_in_the_middle_of_a_write_leaves_no_torn_part(head, machines, folder, undisturbed):
    finish(embedding(head, folder, worker="DiesWriting"), folder)
    assert (folder / "died").exists()
    assert list(Path(folder, "results/t/artifacts/embeddings").glob(".part-*.tmp")), (
        "the torn file of that write, which nobody reads"
    )
    assert_equal_and_clean(folder, undisturbed)


def test_a_part_torn_by_its_disk_is_named_and_made_again_once_deleted(head, machines, folder, undisturbed):
    assert here(folder)[0] == 0
    torn = Path(folder, "results/t/artifacts/embeddings/part-00004.parquet")
    torn.write_bytes(torn.read_bytes()[:-100])
    said = finish(embedding(head, folder), folder, code=2)
    assert str(torn) in said and "delete it" in said
    torn.unlink()
    finish(embedding(head, folder, log="again.txt"), folder, "again.txt")
    assert_equal_and_clean(folder, undisturbed)


def test_a_full_disk_sets_its_shards_aside_and_the_next_run_makes_them(head, machines, folder, undisturbed):
    said = finish(embedding(head, folder, seconds=0, worker="FullDisk", gpus=0), folder, code=3)
    assert f"{SHARDS // 2} of {SHARDS} shards failed" in said and ": file too large); the others are kept" in said
    assert len(done(folder)) == SHARDS // 2
    assert not list(Path(folder, "results/t/artifacts/embeddings").glob(".*"))
    finish(embedding(head, folder, log="again.txt", seconds=0), folder, "again.txt")
    assert_equal_and_clean(folder, undisturbed)


def test_a_file_system_that_fills_up_ends_the_run_with_exit_code_3_and_it_continues_when_there_is_room(
    folder, undisturbed
):
    place = folder / "results"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "ckd", str(place)], capture_output=True).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    try:
        code, said = here(folder)
        assert code == 3 and "ace left" in said, said
        assert len(parts(folder)) < 2 * SHARDS
        subprocess.run(["mount", "-o", "remount,size=16m", str(place)], check=True)
        code, said = here(folder)
        assert code == 0, said
        assert_equal_and_clean(folder, undisturbed)
    finally:
        subprocess.run(["umount", str(place)], check=True)
