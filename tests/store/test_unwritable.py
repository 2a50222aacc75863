"""What libraries raise when a file system refuses is one line with the path and exit code 3; a bug stays one."""

import errno
import os
import resource
import subprocess

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from ckd.errors import IncompleteError
from ckd.store.files import write_bytes
from ckd.store.unwritable import REMEDIES, unwritable, writing

TENSORS = {"a": torch.zeros(50_000)}
TABLE = pa.table({"a": torch.rand(50_000).numpy()})
WRITERS = {
    "torch to a path": lambda path: torch.save(TENSORS, path),
    "torch to a stream": lambda path: torch.save(TENSORS, path.open("wb")),
    "safetensors": lambda path: save_file(TENSORS, path),
    "pyarrow": lambda path: pq.write_table(TABLE, path),
    "polars": lambda path: pl.from_arrow(TABLE).write_parquet(path),
    "plain": lambda path: path.write_bytes(bytes(200_000)),
    "ours": lambda path: write_bytes(str(path), bytes(200_000)),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file system of 64 kB."""
    place = tmp_path_factory.mktemp("small")
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "ckd", str(place)]
    if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_whatever_library_meets_it(small, name):
    told = r"small.*: no space left on device; what is finished is kept, make room"
    with pytest.raises(IncompleteError, match=told), writing(str(small)):
        WRITERS[name](small / "x")
    for path in small.iterdir():
        path.unlink()


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_file_system_is_told_whatever_library_meets_it(small, name):
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    try:
        told = "small.*: read-only file system; .*mount it writable"
        with pytest.raises(IncompleteError, match=told), writing(str(small)):
            WRITERS[name](small / "x")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)


@pytest.mark.parametrize("name", ["plain", "ours", "pyarrow", "safetensors"])
def test_a_limit_on_the_size_of_files_is_told(tmp_path, name):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(IncompleteError, match="file too large; .*ulimit"), writing(str(tmp_path)):
            WRITERS[name](tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("number", REMEDIES)
def test_every_number_is_found_in_an_error_its_text_and_what_it_was_raised_from(number):
    plain = OSError(number, os.strerror(number))
    outer = RuntimeError("could not save")
    outer.__cause__ = OSError(number, os.strerror(number), "/a/file")
    rust = RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")
    for error in (plain, outer, rust, RuntimeError(f"open file failed with strerror: {os.strerror(number)}")):
        told = str(unwritable(error, "/b"))
        where = "/a/file" if error is outer else "/b"
        assert told.startswith(f"{where}: {os.strerror(number).lower()}; ") and "\n" not in told


def test_other_errors_stay_what_they_are():
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file", "/x"),
        ValueError("7 rows"),
        RuntimeError("shape"),
        OSError("Couldn't deserialize thrift"),
    ):
        assert unwritable(error) is None
        with pytest.raises(type(error)), writing():
            raise error
    shown = RuntimeError("a bug")
    shown.__context__, shown.__suppress_context__ = OSError(errno.ENOSPC, "No space left on device"), True
    assert unwritable(shown) is None


def test_a_write_of_ours_names_the_file_that_was_wanted_not_its_temp_file(small):
    with pytest.raises(OSError) as raised:
        write_bytes(str(small / "wanted.json"), bytes(200_000))
    assert raised.value.filename == str(small / "wanted.json") and not list(small.iterdir())
