"""A model on an object store: the same fingerprint as its folder, copied once per machine, whole or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckd.config import TeacherConfig
from ckd.errors import ArtifactError, ConfigError
from ckd.run import Run
from ckd.store.files import read_bytes, write_bytes
from ckd.store.folders import upload_folder
from ckd.store.models import local_folder, model_fields, model_seen
from ckd.teacher.embed import EmbedWorker, teacher_fields
from ckd.teacher.engine_hf import TransformersEngine
from tests.teacher.embedded import embedded, visits


@pytest.fixture
def bucket(root, teacher_folder):
    """A URL at which the tiny teacher lies; this machine's cache is empty."""
    upload_folder(f"{teacher_folder}/base", f"{root}/base")
    write_bytes(f"{root}/base/original/weights.pth", b"never copied")
    return f"{root}/base"


def copies(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache" / "ckd" / "models").glob("*") if p.is_dir())


def test_a_url_has_the_fingerprint_of_its_folder_before_and_after_it_is_copied(tmp_path, bucket, teacher_folder):
    wanted = model_fields("teacher.base_model", f"{teacher_folder}/base")
    assert model_fields("teacher.base_model", bucket) == wanted
    assert not (tmp_path / "cache").exists(), "a fingerprint needs no copy"
    folder = local_folder("teacher.base_model", bucket)
    assert model_fields("teacher.base_model", bucket) == model_fields("teacher.base_model", folder) == wanted
    assert sorted(os.listdir(folder)) == sorted(os.listdir(f"{teacher_folder}/base"))
    assert local_folder("teacher.base_model", f"{teacher_folder}/base") == f"{teacher_folder}/base"


def test_workers_copy_a_model_once_and_a_killed_ones_remains_are_replaced(tmp_path, bucket, gate, teacher_folder):
    copy = Path(local_folder("teacher.base_model", bucket))
    copy.rename(copy.with_suffix(".tmp"))
    (copy.with_suffix(".tmp") / "model.safetensors").write_bytes(b"half")
    before = len(gate.seen)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: local_folder("teacher.base_model", bucket), range(4)))
    assert folders == {str(copy)} and copies(tmp_path) == [copy.name]
    assert (copy / "model.safetensors").read_bytes() == Path(f"{teacher_folder}/base/model.safetensors").read_bytes()
    read = [path for method, path in gate.seen[before:] if method == "GET" and "model.safetensors" in path]
    assert len(read) == 1


def test_a_changed_model_is_another_copy(tmp_path, bucket):
    before = local_folder("teacher.base_model", bucket)
    write_bytes(f"{bucket}/config.json", read_bytes(f"{bucket}/config.json") + b"\n")
    assert local_folder("teacher.base_model", bucket) != before
    assert len(copies(tmp_path)) == 2


def test_a_url_without_a_model_is_a_config_error(root):
    for ask in (model_fields, local_folder):
        with pytest.raises(ConfigError, match=r"teacher\.base_model=s3://bucket/.*/nowhere: no config\.json there"):
            ask("teacher.base_model", f"{root}/nowhere")
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


def test_a_worker_refuses_a_model_that_is_not_what_the_driver_saw(tmp_path, bucket):
    config, cohort, _ = embedded(
        tmp_path, visits(["train"] * 4), overrides=[f"teacher.base_model={bucket}", "teacher.dtype=float32"]
    )
    fields = teacher_fields(config)
    weights = bytearray(read_bytes(f"{bucket}/model.safetensors"))
    weights[-1] ^= 1
    write_bytes(f"{bucket}/model.safetensors", bytes(weights))
    with pytest.raises(ArtifactError, match="on this machine: made with teacher.base_model="):
        EmbedWorker(Run(config, {"embeddings": fields}))(cohort.shards[0])


def test_a_worker_hashes_its_copy_instead_of_the_url_once_more(tmp_path, bucket, gate):
    config, cohort, _ = embedded(
        tmp_path, visits(["train"] * 4), overrides=[f"teacher.base_model={bucket}", "teacher.dtype=float32"]
    )
    fields, before = teacher_fields(config), len(gate.seen)
    EmbedWorker(Run(config, {"embeddings": fields}))(cohort.shards[0])
    assert len([path for method, path in gate.seen[before:] if method == "GET" and "model.safetensors" in path]) == 1


def test_of_a_url_doctor_compares_the_listing_and_reads_no_weights(bucket, gate):
    before = len(gate.seen)
    seen = model_seen("teacher.base_model", bucket)
    assert not [path for method, path in gate.seen[before:] if method == "GET" and "safetensors" in path]
    write_bytes(f"{bucket}/config.json", read_bytes(f"{bucket}/config.json") + b"\n")
    assert model_seen("teacher.base_model", bucket) != seen
