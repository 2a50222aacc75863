"""Everything of a run at s3://, on a real S3 server that fails now and then: inputs, models, artifacts, results."""

import io
import json
import os
import re
from argparse import Namespace
from pathlib import Path

import pytest

from ckd.configfile import load
from ckd.ehr.synthetic.tables import write_tables
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import exists, join, list_files, read_bytes, write_bytes
from ckd.store.folders import upload_folder
from ckd.visits.labels import render_output
from jobs import ingest, pipeline, status, verify
from jobs.cli import main
from jobs.console import Console
from tests.store.object_store import no_fault
from tests.student.student_cohort import OTHERS, make_base, make_visits

STAGES = ("visits", "embeddings", "soft_labels", "tokens", "predictions")
PUBLIC = ("data/hands_name_train.json", "data/hands_name_val.json", "lora/teacher_classification_head.pt")


@pytest.fixture
def root(root, monkeypatch):
    """With as many attempts as users have."""
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    return root


@pytest.fixture
def inputs(tmp_path, teacher_folder):
    """A folder with rows, teacher and student base."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for split, count in (("train", 60), ("tuning", 20), ("held_out", 20)):
        with (folder / f"{split}.json").open("w") as file:
            for v in make_visits(split, count):
                row = {
                    "instruction": v.instruction,
                    "input": v.input,
                    "output": render_output(v.labels),
                    "subject_id": v.subject_id,
                }
                file.write(json.dumps(row) + "\n")
    os.symlink(f"{teacher_folder}/base", folder / "base")
    os.symlink(f"{teacher_folder}/adapter", folder / "adapter")
    os.rename(make_base(tmp_path / "bert", others=OTHERS), folder / "bert")
    return str(folder)


def configured(inputs, root):
    return load(
        None,
        [
            *(f"data.{split}={inputs}/{split}.json" for split in ("train", "tuning", "held_out")),
            *("run.name=t", f"run.artifacts={root}/artifacts", f"run.results={root}/results"),
            *(f"run.public_files={root}/public", "data.shard_rows=32", "teacher.dtype=float32"),
            *(f"teacher.base_model={inputs}/base", f"teacher.adapter={inputs}/adapter"),
            *(f"student.base_model={inputs}/bert", "student.max_length=64", "student.epochs=1"),
            *("student.learning_rate=1e-2", "head.epochs=2", "head.folds=2"),
        ],
    )


def uploaded(local, url):
    """Copy a folder whose subfolders are links."""
    for folder in (local, *(path for path in Path(local).iterdir() if path.is_dir())):
        for file in Path(folder).iterdir():
            if file.is_file():
                write_bytes(join(url, str(file.relative_to(local))), file.read_bytes())


def test_a_run_with_everything_on_an_object_store_ends_as_a_local_one(tmp_path, root, gate, inputs):
    here = configured(inputs, str(tmp_path / "local"))
    pipeline.run(here, Console(io.StringIO(), here.run.folder))
    uploaded(inputs, f"{root}/inputs")
    before = set(tmp_path.rglob("*"))
    gate.fault = lambda number, method, path: (500 if number % 14 else "cut") if number % 7 == 0 else None
    there = configured(f"{root}/inputs", root)
    with Console(io.StringIO(), there.run.folder) as screen:
        pipeline.run(there, screen)
        verify.run(there, screen)
    gate.fault = no_fault
    for name in ("metrics.json", "student/model.safetensors", "student/artifact.json"):
        assert read_bytes(join(there.run.folder, name)) == read_bytes(join(here.run.folder, name)), name
    for stage in STAGES:
        names = list_files(join(here.run.artifacts_root, stage), ".parquet")
        assert list_files(join(there.run.artifacts_root, stage), ".parquet") == names
        for name in names:
            assert read_bytes(join(there.run.artifacts_root, stage, name)) == read_bytes(
                join(here.run.artifacts_root, stage, name)
            ), (stage, name)
    for name in PUBLIC:
        assert read_bytes(join(there.run.public_files, name)) == read_bytes(join(here.run.public_files, name)), name
    for name in ("test_metrics.txt", "heads_results0.9/best_model.pt"):
        assert read_bytes(join(there.run.public_results, name)) == read_bytes(join(here.run.public_results, name)), name
    kinds = [json.loads(line)["event"] for line in read_bytes(join(there.run.folder, "events.jsonl")).splitlines()]
    assert kinds[0] == "run" and {"embed_done", "head", "student_done", "evaluate"} <= set(kinds)
    assert all(path.is_relative_to(tmp_path / "cache") for path in set(tmp_path.rglob("*")) - before), (
        "only the cache holds local files"
    )
    _answers_from_another_machine(there, tmp_path)


def _answers_from_another_machine(config, tmp_path):
    """Nothing is computed again, and no line of the events or of the public metrics is lost or repeated."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "another machine")
    before = read_bytes(join(config.run.folder, "events.jsonl"))
    with Console(io.StringIO(), config.run.folder) as screen:
        pipeline.run(config, screen)
        assert any("4/4 shards, done" in line for line in status.plan(config))
    assert "embed: 4 of 4 shards done, 0 to do" in screen.stream.getvalue()
    assert "student is done" in screen.stream.getvalue()
    assert read_bytes(join(config.run.folder, "events.jsonl")).startswith(before)
    assert read_bytes(join(config.run.public_results, "test_metrics.txt")).count(b"\n") == 1


def test_a_cohort_is_made_from_tables_at_a_url_at_a_url(tmp_path, root, gate):
    write_tables(str(tmp_path / "tables"), 60, 1, lambda count: None)
    upload_folder(str(tmp_path / "tables"), f"{root}/tables")
    config = load(None, ["ingest.partitions=3", "ingest.min_support=2"])
    made = Namespace(
        source="mimic3", folder=str(tmp_path / "tables"), out=str(tmp_path / "cohort"), like=None, labels=[]
    )
    ingest.run(config, Console(io.StringIO()), made)
    gate.fault = lambda number, method, path: 500 if number % 5 == 0 else None
    said = Console(io.StringIO())
    ingest.run(
        config, said, Namespace(source="mimic3", folder=f"{root}/tables", out=f"{root}/cohort", like=None, labels=[])
    )
    gate.fault = no_fault
    assert f"the tables of {root}/tables are copied to this machine" in said.stream.getvalue()
    names = list_files(str(tmp_path / "cohort"))
    assert list_files(f"{root}/cohort") == names and len(names) == 7
    for name in names:
        here, there = read_bytes(f"{tmp_path}/cohort/{name}"), read_bytes(f"{root}/cohort/{name}")
        if name == "card.json":  # it says where rows stand, so artifact.json has another hash of it
            assert b"ADMISSIONS.csv.gz:" in here
            here = here.replace(f"{tmp_path}/tables/".encode(), f"{root}/tables/".encode())
            here, there = (re.sub(rb'"check": "\w+"', b"", card) for card in (here, there))  # and another of itself
        assert name == "artifact.json" or there == here, name
    FolderArtifact(f"{root}/cohort", {}).verify()
    assert not list((tmp_path / "cache" / "ckd" / "ingest").glob("*")), "the work folder is gone"
    assert main(["validate", f"{root}/cohort"]) == 0
    assert main(["export", "jsonl", f"{root}/cohort", "--out", f"{root}/data"]) == 0
    assert exists(f"{root}/data/name_train.json")


def test_an_ingest_to_a_url_does_not_spread_over_machines_that_cannot_see_its_work(tmp_path, root, monkeypatch, capsys):
    write_tables(str(tmp_path / "tables"), 20, 1, lambda count: None)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    assert main(["ingest", "mimic3", f"{tmp_path}/tables", "--out", f"{root}/cohort", "ingest.workers=2"]) == 2
    assert "set ingest.workers=0" in capsys.readouterr().err
