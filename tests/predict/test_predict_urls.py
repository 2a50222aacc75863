"""Input, model, predictions, MEDS tables and an exported folder at URLs, as on this machine's disk."""

import io
from argparse import Namespace

import pyarrow.parquet as pq
import pytest

from ckd.errors import ConfigError
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import join, list_files, read_bytes, write_bytes
from ckd.store.folders import upload_folder
from jobs import export_model
from jobs.cli import main
from jobs.console import Console
from testbed.rows import write_jsonl
from tests.predict.finished_run import finished_run
from tests.store.object_store import BUCKET, s3_server
from tests.student.student_cohort import make_visits


@pytest.fixture
def root(tmp_path, monkeypatch):
    with s3_server() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield f"s3://{BUCKET}/{tmp_path.name}"


def test_everything_may_lie_at_urls(root, tmp_path, capsys):
    config = finished_run(tmp_path / "run", held_out=20)
    rows = [
        {"input": v.input, "visit_id": v.visit_id, "subject_id": n, "prediction_time": "2150-01-01"}
        for n, v in enumerate(make_visits("train", 30))
    ]
    local = write_jsonl(tmp_path / "in.json", rows)
    write_bytes(join(root, "in.json"), (tmp_path / "in.json").read_bytes())
    export_model.run(config, Console(io.StringIO()), Namespace(out=join(root, "model"), onnx=False))
    upload_folder(f"{config.run.folder}/student", join(root, "student"))
    assert (
        main(
            [
                "predict",
                local,
                "--model",
                f"{config.run.folder}/student",
                "--out",
                str(tmp_path / "out"),
                "data.shard_rows=8",
            ]
        )
        == 0
    )
    wanted = pq.read_table(tmp_path / "out" / "predictions").drop(["probabilities"])
    for model in ("model", "student"):
        out, meds = join(root, f"out-{model}"), join(root, f"meds-{model}")
        words = [
            "predict",
            join(root, "in.json"),
            "--model",
            join(root, model),
            "--out",
            out,
            "--meds",
            meds,
            "data.shard_rows=8",
        ]
        assert main(words) == 0
        names = list_files(join(out, "predictions"))
        assert len(names) == 4
        found = [pq.read_table(io.BytesIO(read_bytes(join(out, "predictions", name)))) for name in names]
        assert [row for table in found for row in table.drop(["probabilities"]).to_pylist()] == wanted.to_pylist()
        assert len(list_files(meds, ".parquet")) == 25
        FolderArtifact(meds, {}).verify()
        capsys.readouterr()
        assert main(words) == 0
        assert capsys.readouterr().out.count("is done") == 2
    write_bytes(join(root, "mine", "notes.txt"), b"mine")
    with pytest.raises(ConfigError, match="holds files that are no export of a student"):
        export_model.run(config, Console(io.StringIO()), Namespace(out=join(root, "mine"), onnx=False))
