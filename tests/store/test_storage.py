"""Storage at s3:// through a proxy that fails: what is written is whole or not there; a failure is one line, exit 3."""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ckd.errors import ArtifactError, ConfigError, UnreachableError
from ckd.store import filesystems
from ckd.store.artifacts import FolderArtifact, Stage
from ckd.store.copies import fetched_folder
from ckd.store.files import (
    delete,
    exists,
    file_size,
    join,
    list_files,
    read_bytes,
    size_and_hash,
    write_bytes,
    write_file,
)
from jobs import events
from jobs.console import Console
from tests.store.object_store import BUCKET, free_port, gcs_server, no_fault

LARGE = b"0123456789abcdef" * (25 << 16)  # 25 MiB: three parts of a multipart upload


def every(nth, what, methods=("GET", "PUT", "POST", "HEAD")):
    return lambda number, method, path: what if method in methods and number % nth == 0 else None


def first(count, what, method="PUT"):
    """The first `count` requests of a method fail."""
    left = [count]

    def fault(number, asked, path):
        if asked == method and left[0]:
            left[0] -= 1
            return what
        return None

    return fault


def always(what, method="PUT"):
    return lambda number, asked, path: what if asked == method else None


def table(n):
    return pa.table({"visit_id": [f"v{i}" for i in range(n)]})


def test_files_are_written_read_listed_and_deleted_at_a_url(root):
    write_bytes(join(root, "a/one.txt"), b"one")
    write_bytes(join(root, "a/with space & ünicode%20.txt"), b"two")
    write_bytes(join(root, "a/empty"), b"")
    assert list_files(join(root, "a")) == ["empty", "one.txt", "with space & ünicode%20.txt"]
    assert list_files(join(root, "nowhere")) == []
    assert [read_bytes(join(root, f"a/{name}")) for name in list_files(join(root, "a"))] == [b"", b"one", b"two"]
    delete(join(root, "a/one.txt"))
    delete(join(root, "a/one.txt"))
    assert (exists(join(root, "a/one.txt")), exists(join(root, "a")), file_size(join(root, "a/empty"))) == (
        False,
        True,
        0,
    )
    with pytest.raises(FileNotFoundError):
        read_bytes(join(root, "a/one.txt"))


@pytest.mark.parametrize(
    "fault",
    [every(2, 500), every(3, 503), every(2, "cut"), every(2, "cut answer")],
    ids=["500", "503", "cut", "cut answer"],
)
def test_a_failing_request_is_sent_again_and_parts_come_out_equal(root, gate, fault, tmp_path):
    here, there = Stage(str(tmp_path / "local"), "s", {"a": 1}), Stage(root, "s", {"a": 1})
    here.write(0, table(500), rows=500, input_hash="x")
    gate.fault = fault
    there.write(0, table(500), rows=500, input_hash="x")
    assert there.is_done(0, rows=500, input_hash="x")
    assert there.read(0).equals(here.read(0))
    gate.fault = no_fault
    assert read_bytes(there.path(0)) == read_bytes(here.path(0))


def test_a_few_bytes_are_asked_for_again_too(root, gate):
    """The error's text is longer than what was asked for; so pyarrow takes the request for lost."""
    write_bytes(join(root, "tiny"), b"abc")
    gate.fault = first(1, 500, "GET")
    assert read_bytes(join(root, "tiny")) == b"abc"
    gate.fault = first(1, 503, "GET")
    assert size_and_hash(join(root, "tiny"))["size"] == 3


def test_retries_do_not_run_out_in_a_long_life(root, gate):
    for _ in range(70):  # pyarrow's standard strategy has given up by then
        gate.fault = first(1, 500, "HEAD")
        assert not exists(join(root, "nowhere"))


def test_an_upload_starts_only_when_everything_has_been_written(root, gate):
    def fail(stream):
        stream.write(b"half")
        raise RuntimeError("cut")

    before = len(gate.seen)
    with pytest.raises(RuntimeError):
        write_file(join(root, "a.bin"), fail)
    assert len(gate.seen) == before and list_files(root) == []
    write_bytes(join(root, "a.bin"), b"whole")
    assert read_bytes(join(root, "a.bin")) == b"whole"


@pytest.mark.parametrize("size", [1000, len(LARGE)], ids=["one request", "many parts"])
@pytest.mark.parametrize("what", [500, 403, "cut"])
def test_an_upload_that_never_gets_through_leaves_what_was_there_before(root, gate, size, what):
    path = join(root, "part")
    gate.fault = always(what)
    with pytest.raises(UnreachableError, match=f"{path}: .*run the same command again") as error:
        write_bytes(path, LARGE[:size])
    assert "\n" not in str(error.value) and error.value.exit_code == 3
    gate.fault = no_fault
    assert not exists(path)
    assert list_files(root) == []
    write_bytes(path, b"before")
    gate.fault = always(what)
    with pytest.raises(UnreachableError):
        write_bytes(path, LARGE[:size])
    gate.fault = no_fault
    assert read_bytes(path) == b"before"


def test_a_connection_cut_in_the_middle_of_a_large_upload_is_made_up_for(root, gate, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    gate.fault = first(2, "cut")
    write_bytes(join(root, "large"), LARGE)
    assert gate.fault(0, "PUT", "") is None, "both cuts happened"
    gate.fault = no_fault
    assert read_bytes(join(root, "large")) == LARGE


def test_a_writer_killed_in_the_middle_of_an_upload_leaves_nothing_visible(root, gate):
    gate.fault = lambda number, method, path: 5.0 if "partNumber=3" in path else None
    before = len(gate.seen)
    script = f"from ckd.store.files import write_bytes; write_bytes({join(root, 'large')!r}, bytes({len(LARGE)}))"
    writer = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not any("partNumber=3" in path for _, path in gate.seen[before:]):
        assert writer.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    gate.fault = no_fault
    assert not exists(join(root, "large"))


def test_a_slow_answer_is_waited_for(root, gate):
    gate.fault = every(1, 4.0, methods=("PUT",))  # longer than the 3 s of pyarrow's own setting
    before = len(gate.seen)
    write_bytes(join(root, "slow"), b"patience")
    assert len(gate.seen) == before + 1, "sent once"
    gate.fault = no_fault
    assert read_bytes(join(root, "slow")) == b"patience"


def test_an_answer_that_never_comes_is_given_up(root, gate, monkeypatch):
    monkeypatch.setattr(filesystems, "SILENT_SECONDS", 1.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("AWS_REGION", "eu-test-1")  # a file system of its own, made with that second
    gate.fault = every(1, 8.0)
    started = time.monotonic()
    with pytest.raises(UnreachableError):
        read_bytes(join(root, "never"))
    assert time.monotonic() - started < 7


def test_a_missing_or_damaged_part_is_no_matter_of_the_network(root, gate):
    stage = Stage(root, "s", {})
    assert stage.footer(0) is None
    with pytest.raises(ArtifactError, match="part-00000.parquet: missing"):
        stage.read(0)
    write_bytes(stage.path(0), b"PAR1 not parquet PAR1")
    with pytest.raises(ArtifactError, match="delete it and run the same command again"):
        stage.footer(0)
    gate.fault = always(500, "GET")
    with pytest.raises(UnreachableError, match="part-00000.parquet"):
        stage.footer(0)


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/x", "s3:///x", "s3://bucket?region=x/y", "nothing://x/y", "nothing://a:secret@x"]
)
def test_a_url_that_cannot_be_used_is_a_config_error_that_shows_no_secret(root, url):
    with pytest.raises(ConfigError, match="expected") as error:
        read_bytes(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["s3://bucket//x", "s3://bucket/a//b", "gs://bucket/a///b"])
def test_two_slashes_in_a_row_are_a_config_error_that_says_so(root, url):
    for use in (read_bytes, fetched_folder, lambda url: FolderArtifact(url, {}).load()):
        with pytest.raises(ConfigError, match="two slashes in a row"):
            use(url)


def lines(root):
    return [json.loads(line)["n"] for line in read_bytes(join(root, "events.jsonl")).splitlines()]


def test_events_of_every_machine_are_kept(root, tmp_path, monkeypatch):
    with Console(sys.stdout, root) as first_machine:
        first_machine.event("a", n=1)
    assert lines(root) == [1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    with Console(sys.stdout, root) as second_machine:
        second_machine.event("a", n=2)
        second_machine.upload()
        second_machine.event("a", n=3)
    assert lines(root) == [1, 2, 3]
    first_machine.event("a", n=4)  # a driver that was thought dead
    first_machine.upload()
    assert sorted(lines(root)) == [1, 2, 3, 4]


def test_events_wait_where_they_are_while_the_storage_does_not_answer(root, gate, monkeypatch, tmp_path):
    monkeypatch.setattr(events, "SECONDS_BETWEEN_UPLOADS", 0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    console = Console(sys.stdout, root)
    gate.fault = every(1, 500)
    console.event("a", n=1)
    with pytest.raises(UnreachableError, match=r"events\.jsonl"):
        console.upload()
    gate.fault = no_fault
    Console(sys.stdout, root).event("a", n=2)  # killed before its end: a new process on the same machine
    assert lines(root) == [1, 2]


def test_a_run_whose_storage_is_not_there_ends_in_one_line_with_exit_3(tmp_path, root):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"instruction": "i", "input": "x", "output": "None."}) + "\n")
    environment = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "2"}
    for words in (
        ["embed", f"data.train={rows}", f"run.artifacts={root}"],
        ["embed", f"data.train={root}/train.json"],
        ["verify", f"run.artifacts={root}"],
    ):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *words], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 3, done.stderr
        assert done.stderr.count("\n") == 1 and root in done.stderr and "check the network" in done.stderr
        assert time.monotonic() - started < 20


def test_google_cloud_storage_is_read_and_written_too(tmp_path, monkeypatch):
    """With an emulator, which stalls when less than all of a large object is read; the real service was not tried."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(filesystems, "_GCS_PATIENCE", timedelta(seconds=1))
    filesystems._gcs.cache_clear()
    with gcs_server() as port:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        stage = Stage(f"gs://{BUCKET}/run", "s", {"a": 1})
        stage.write(0, table(500), rows=500, input_hash="x")
        assert stage.is_done(0, rows=500, input_hash="x") and stage.indices() == [0]
        assert stage.read(0).num_rows == 500 and stage.footer(1) is None
        (tmp_path / "student").mkdir()
        (tmp_path / "student" / "a.bin").write_bytes(b"weights")
        artifact = FolderArtifact(f"gs://{BUCKET}/run/student", {"a": 1})
        artifact.commit_from(str(tmp_path / "student"))
        artifact.verify()
        assert Path(fetched_folder(artifact.folder), "a.bin").read_bytes() == b"weights"
        stage.delete(0)
        assert stage.indices() == []
    with pytest.raises(UnreachableError, match="gs://bucket/run/student/artifact.json.*UNAVAILABLE"):
        artifact.load()
    filesystems._gcs.cache_clear()
