"""One writer per folder: the second is told who the first is, whatever state that one is in."""

import errno
import fcntl
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from ckd.errors import IncompleteError
from ckd.store.lease import lease, lease_in_turn

HOLD = """
import sys
import threading
from ckd.store.lease import lease, lease_in_turn
with lease(sys.argv[1], "ckd ingest"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_that_holds(folder):
    arguments = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_told_who_the_first_is_and_gets_the_folder_when_that_ends(tmp_path):
    folder = tmp_path / "deep" / "cohort"
    with another_process_that_holds(folder) as first:
        with pytest.raises(IncompleteError) as refused, lease(str(folder), "ckd export"):
            pass
        found = str(refused.value)
        assert found.startswith(f"{folder}: 'ckd ingest' (process {first.pid} on {platform.node()}, since 20")
        assert re.search(r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\) writes there; run this again", found)
        assert "\n" not in found and refused.value.exit_code == 3
        first.stdin.close()
        assert first.wait() == 0
    with lease(str(folder), "ckd export"):
        pass
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_stopped_process_keeps_the_folder_and_a_killed_one_does_not(tmp_path):
    folder = str(tmp_path / "cohort")
    with another_process_that_holds(folder) as first:
        first.send_signal(signal.SIGSTOP)
        with pytest.raises(IncompleteError), lease(folder, "ckd ingest"):
            pass
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        assert json.loads((tmp_path / ".cohort.lease").read_text())["pid"] == first.pid
        with lease(folder, "ckd ingest"):
            assert json.loads((tmp_path / ".cohort.lease").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_renamed_meanwhile_and_one_under_another_name_are_the_same(tmp_path):
    folder, other = tmp_path / "cohort", tmp_path / "link"
    folder.mkdir()
    other.symlink_to(folder)
    with lease(str(folder), "ckd export model"):
        folder.rename(tmp_path / "old")
        folder.mkdir()
        for name in (str(folder), f"{tmp_path}/x/../cohort/", str(other)):
            with pytest.raises(IncompleteError), lease(name, "ckd export model"):
                pass
        with lease(str(tmp_path / "old"), "ckd export model"):
            pass


def test_where_nothing_may_be_written_beside_the_folder_the_lock_is_in_it(tmp_path, monkeypatch):
    folder = tmp_path / "mounted"
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    with lease(str(folder), "ckd ingest"):
        assert (folder / ".lease").exists() and not list(tmp_path.glob(".*"))
    assert list(folder.iterdir()) == []


def test_a_lock_file_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(IncompleteError, match=r"\.cohort\.lease: permission denied; .* get the right to write there"):
        lease(str(tmp_path / "cohort"), "ckd ingest").__enter__()


def test_a_file_system_without_locks_and_a_url_have_none(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for folder in (str(tmp_path / "cohort"), "s3://bucket/cohort"):
        with lease(folder, "ckd ingest"):
            assert list(tmp_path.iterdir()) == []


def test_what_fails_inside_ends_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), lease(str(tmp_path / "cohort"), "ckd ingest"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_is_soon_done_waits_its_turn_and_says_so_once(tmp_path):
    folder, said = str(tmp_path / "visits"), []
    with another_process_that_holds(folder) as first:
        threading.Timer(1.5, first.kill).start()
        with lease_in_turn(folder, "ckd embed", said.append) as alone:
            assert alone and first.poll() is not None
    assert len(said) == 1 and said[0].startswith(f"waiting: {folder}: 'ckd ingest' (process {first.pid} on ")
    assert list(tmp_path.iterdir()) == []
