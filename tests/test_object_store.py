"""run.artifacts as a URL: the whole pipeline over an object store that lives in this process's memory."""

import io
import json

import fsspec
import pytest
from pyarrow import fs
from student_cohort import make_base, make_visits

import ckd.filesystems
import ckd.store
from ckd.config import load
from ckd.labels import render_output
from jobs import pipeline, status, verify
from jobs.console import Console


@pytest.fixture
def bucket(monkeypatch):
    """`bucket://…` paths lead to a memory file system that, like an object store, has no rename."""
    memory = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory")))
    monkeypatch.setattr(ckd.filesystems, "others", lambda path: (memory, path.removeprefix("bucket://")))


def test_the_pipeline_runs_and_resumes_with_its_parts_on_an_object_store(tmp_path, bucket, teacher_folder):
    for split, count in (("train", 60), ("tuning", 20), ("held_out", 20)):
        with (tmp_path / f"{split}.json").open("w") as file:
            for v in make_visits(split, count):
                row = {"instruction": v.instruction, "input": v.input, "output": render_output(v.labels), "subject_id": v.subject_id}
                file.write(json.dumps(row) + "\n")
    config = load(
        None,
        [
            *(f"data.{split}={tmp_path}/{split}.json" for split in ("train", "tuning", "held_out")),
            *(f"run.artifacts=bucket://runs/{tmp_path.name} run.results={tmp_path}/results run.public_files={tmp_path}".split()),
            *(f"teacher.base_model={teacher_folder}/base teacher.dtype=float32 data.shard_rows=32 head.epochs=2 head.folds=2".split()),
            *(f"student.base_model={make_base(tmp_path / 'bert')} student.max_length=64 student.epochs=1 student.learning_rate=1e-2".split()),
        ],
    )
    screen = Console(io.StringIO(), config.run.folder)
    pipeline.run(config, screen)
    verify.run(config, screen)
    parts = ckd.store.list_files(f"{config.run.artifacts_root}/embeddings", ".parquet")
    assert parts == [f"part-{i:05d}.parquet" for i in range(4)]
    assert not list(tmp_path.rglob("part-*"))
    pipeline.run(config, screen)
    assert "embed: 4 of 4 shards done, 0 to do" in screen.stream.getvalue()
    assert any("4/4 shards, done" in line for line in status.plan(config))
