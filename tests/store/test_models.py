"""A model on an object store: the same fingerprint as its folder, copied once per machine, whole or not at all."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from pyarrow import fs

import ckd.store.filesystems
import ckd.store.models
from ckd.config import TeacherConfig
from ckd.errors import ArtifactError, ConfigError
from ckd.store.models import local_folder, model_fields, revision
from ckd.teacher.embed import EmbedWorker, teacher_fields
from ckd.teacher.engine_hf import TransformersEngine
from tests.teacher.embedded import embedded, visits


@pytest.fixture
def bucket(tmp_path, monkeypatch, teacher_folder):
    """`bucket://<path>` leads to a memory file system that holds the tiny teacher; this machine's cache is empty."""
    memory = fsspec.filesystem("memory")
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(memory))
    others = ckd.store.filesystems.others
    monkeypatch.setattr(
        ckd.store.filesystems,
        "others",
        lambda path: (filesystem, path.removeprefix("bucket://")) if path.startswith("bucket://") else others(path),
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in Path(f"{teacher_folder}/base").iterdir():
        memory.pipe_file(f"/models{tmp_path}/{file.name}", file.read_bytes())
    memory.pipe_file(f"/models{tmp_path}/original/weights.pth", b"never copied")
    return f"bucket://models{tmp_path}"


def copies(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache" / "ckd" / "models").glob("*") if p.is_dir())


def test_a_url_has_the_fingerprint_of_its_folder_before_and_after_it_is_copied(tmp_path, bucket, teacher_folder):
    wanted = model_fields("teacher.base_model", f"{teacher_folder}/base")
    assert model_fields("teacher.base_model", bucket) == wanted
    assert not (tmp_path / "cache").exists(), "a fingerprint needs no copy"
    folder = local_folder("teacher.base_model", bucket)
    assert model_fields("teacher.base_model", bucket) == model_fields("teacher.base_model", folder) == wanted
    assert revision("teacher.base_model", folder) is None
    assert sorted(os.listdir(folder)) == sorted(os.listdir(f"{teacher_folder}/base"))
    assert local_folder("teacher.base_model", f"{teacher_folder}/base") == f"{teacher_folder}/base"


def test_two_workers_copy_a_model_once_and_a_killed_ones_remains_are_replaced(tmp_path, bucket, monkeypatch):
    counted, download, counting = [], ckd.store.models._download, threading.Lock()

    def count(name, files, copy):
        with counting:
            counted.append(copy)
        copy.with_suffix(".tmp").mkdir()
        (copy.with_suffix(".tmp") / "model.safetensors").write_bytes(b"half")
        download(name, files, copy)

    monkeypatch.setattr(ckd.store.models, "_download", count)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: local_folder("teacher.base_model", bucket), range(4)))
    assert len(folders) == len(counted) == 1
    assert copies(tmp_path) == [Path(folders.pop()).name]


def test_a_changed_model_is_another_copy(tmp_path, bucket):
    before = local_folder("teacher.base_model", bucket)
    path = "/" + bucket.removeprefix("bucket://") + "/config.json"
    memory = fsspec.filesystem("memory")
    memory.pipe_file(path, memory.cat_file(path) + b"\n")
    assert local_folder("teacher.base_model", bucket) != before
    assert len(copies(tmp_path)) == 2


def test_a_url_without_a_model_is_a_config_error(bucket):
    for ask in (model_fields, local_folder):
        with pytest.raises(ConfigError, match=r"teacher\.base_model=bucket://nowhere: no config\.json there"):
            ask("teacher.base_model", "bucket://nowhere")
    with pytest.raises(ConfigError, match=r"nothing://x: no file system for it"):
        model_fields("teacher.base_model", "nothing://x")


def test_an_engine_from_a_url_equals_the_one_from_the_folder(bucket, teacher_folder):
    given = {"adapter": f"{teacher_folder}/adapter", "dtype": "float32"}
    there, here = (
        TransformersEngine(TeacherConfig(base_model=name, **given), 0) for name in (bucket, f"{teacher_folder}/base")
    )
    prompts = [[5] * 20 + [6], [5] * 20 + [7, 8]]
    assert there.encode(prompts).tobytes() == here.encode(prompts).tobytes()
    assert there.load.revision == here.load.revision


def test_a_worker_refuses_a_copy_that_is_not_what_the_driver_saw(tmp_path, bucket):
    config, cohort, _ = embedded(
        tmp_path, visits(["train"] * 4), overrides=[f"teacher.base_model={bucket}", "teacher.dtype=float32"]
    )
    fields = teacher_fields(config.teacher)
    folder = Path(local_folder("teacher.base_model", bucket))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactError, match="on this machine: made with teacher.base_model="):
        EmbedWorker(config, fields)(cohort.shards[0])


def test_a_large_files_hash_reads_a_sample_and_the_same_one_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(ckd.store.models, "_WHOLE", 1000)
    monkeypatch.setattr(ckd.store.models, "_BLOCK", 64)
    monkeypatch.setattr(ckd.store.models, "_SAMPLES", 10)
    memory = fsspec.filesystem("memory")
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(memory))
    monkeypatch.setattr(ckd.store.filesystems, "others", lambda path: (filesystem, path.removeprefix("bucket://")))
    content = np.random.default_rng(0).bytes(5000)
    (tmp_path / "a.bin").write_bytes(content)
    memory.pipe_file(f"/sampled{tmp_path}/a.bin", content)
    assert ckd.store.models.folder_hash(tmp_path, lambda _: True) == ckd.store.models.folder_hash(
        f"bucket://sampled{tmp_path}", lambda _: True
    )
