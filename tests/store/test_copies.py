"""This machine's copies of models and students at URLs: on the disk before they count, compared before each use."""

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ckd.store import hashes
from ckd.store.artifacts import FolderArtifact
from ckd.store.copies import fetched_folder, made_once
from ckd.store.files import join, write_bytes
from ckd.store.folders import upload_folder
from ckd.store.models import local_folder
from jobs.cli import main
from testbed.rows import write_jsonl
from tests.predict.predicting import rows
from tests.predict.scored_student import make_student

KEY = "teacher.base_model"


def zero_half(path: Path) -> None:
    """What a power cut leaves of a file whose second half had not been written: the size is right."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("tear", [zero_half, cut, flip, Path.unlink])
def test_a_torn_copy_of_a_student_is_fetched_again_and_predicts_as_before(root, tmp_path, caplog, tear):
    upload_folder(make_student(tmp_path), join(root, "student"))
    given = write_jsonl(tmp_path / "in.json", rows(12))

    def values(name):
        assert main(["predict", given, "--model", join(root, "student"), "--out", str(tmp_path / name)]) == 0
        return np.array(pq.read_table(tmp_path / name / "predictions")["probabilities"].to_pylist())

    wanted = values("before")
    assert not caplog.records
    (weights,) = (tmp_path / "cache" / "ckd" / "folders").rglob("model.safetensors")
    tear(weights)
    np.testing.assert_array_equal(values("after"), wanted)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "ckd"]
    assert said == f"{weights.parent}: this machine's copy is not what was copied; it is made again"


@pytest.mark.parametrize("tear", [zero_half, cut, flip, Path.unlink])
def test_a_torn_copy_of_a_model_is_fetched_again(root, tmp_path, teacher_folder, tear):
    upload_folder(f"{teacher_folder}/base", f"{root}/base")
    weights = Path(local_folder(KEY, f"{root}/base")) / "model.safetensors"
    wanted = weights.read_bytes()
    tear(weights)
    assert local_folder(KEY, f"{root}/base") == str(weights.parent)
    assert weights.read_bytes() == wanted == Path(f"{teacher_folder}/base/model.safetensors").read_bytes()


def test_a_copy_without_a_record_of_what_it_should_be_is_not_believed(root, tmp_path, gate):
    write_bytes(join(root, "adapter/adapter_model.bin"), b"weights")
    copy = Path(fetched_folder(join(root, "adapter")))
    copy.with_suffix(".files.json").write_bytes(b'{"adapter_mo')
    before = len(gate.seen)
    assert fetched_folder(join(root, "adapter")) == str(copy)
    assert [path for method, path in gate.seen[before:] if method == "GET" and "adapter_model.bin" in path]
    before = len(gate.seen)
    fetched_folder(join(root, "adapter"))
    assert not [path for method, path in gate.seen[before:] if method == "GET" and "adapter_model.bin" in path]


def test_a_whole_copys_large_file_is_read_once_per_machine(root, tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "_SMALL", 10)
    monkeypatch.setattr(hashes, "_SETTLED", -1)
    read, paths = hashes._read, []
    monkeypatch.setattr(hashes, "_read", lambda path, size: paths.append(Path(path).name) or read(path, size))
    write_bytes(join(root, "model/config.json"), b"{}")
    write_bytes(join(root, "model/model.safetensors"), b"weights" * 100)
    for _ in range(4):
        local_folder(KEY, join(root, "model"))
    assert paths.count("model.safetensors") == 1


def test_all_of_a_copy_is_on_the_disk_before_it_gets_its_name(root, tmp_path, monkeypatch):
    local, artifact = tmp_path / "made", FolderArtifact(join(root, "student"), {})
    (local / "inner").mkdir(parents=True)
    (local / "a.bin").write_bytes(b"weights")
    (local / "inner" / "b.bin").write_bytes(b"more")
    artifact.commit_from(str(local))
    fsync, rename, done = os.fsync, Path.rename, []
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(Path(os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd)))
    monkeypatch.setattr(Path, "rename", lambda self, to: (done.append("renamed"), rename(self, to))[1])
    copy = Path(fetched_folder(artifact.folder))
    unfinished, named = copy.with_suffix(".tmp"), done.index("renamed")
    wanted = {unfinished, unfinished / "inner"}
    wanted |= {unfinished / name for name in ("a.bin", "inner/b.bin", "artifact.json")}
    assert wanted <= set(done[:named]) and copy.parent in done[named:]


def test_a_file_system_that_cannot_sync_a_folder_ends_nothing(tmp_path, monkeypatch):
    fsync = os.fsync

    def refusing(descriptor):
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    write_bytes(str(tmp_path / "a"), b"whole")
    made_once(tmp_path / "b", lambda folder: folder.mkdir())
    assert (tmp_path / "a").read_bytes() == b"whole" and (tmp_path / "b").is_dir()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "disk")))
    with pytest.raises(OSError, match="disk"):
        write_bytes(str(tmp_path / "a"), b"lost")
