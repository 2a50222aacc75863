"""What an exported folder promises to people who have never seen this project."""

import io
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from ckd.configfile import dump
from ckd.errors import ArtifactError, ConfigError
from ckd.evaluation.modelcard import Facts, model_card
from ckd.predict import onnxfile
from ckd.predict.scorer import Scorer
from ckd.store.artifacts import FolderArtifact, Stage
from ckd.store.jsonfile import SEAL
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES
from ckd.visits.visit import SPLITS
from jobs import export_model
from jobs.cli import main
from jobs.console import Console
from testbed.rows import write_jsonl
from tests.predict.finished_run import finished_run
from tests.student.student_cohort import make_visits


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(config, tmp_path_factory):
    """The folder with ONNX files, and what the command printed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    lines = io.StringIO()
    export_model.run(config, Console(lines), Namespace(out=str(folder), onnx=True))
    return folder, lines.getvalue()


def texts(count: int = 12) -> list[str]:
    """Some longer than the 32 tokens that the student reads."""
    return [visit.input for visit in make_visits("held_out", count, seed=7)]


@pytest.mark.parametrize("way", ["transformers", "onnx"])
def test_people_without_this_project_get_the_same_probabilities(exported, tmp_path, way):
    folder, _ = exported
    (tmp_path / "texts.json").write_text(json.dumps(texts()))
    script = Path(__file__).with_name("load_exported.py")
    command = [sys.executable, "-I", script, way, folder, tmp_path / "texts.json", tmp_path / "found.json"]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = Scorer.load(str(folder))(texts()).probabilities
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == {"transformers": ["pipeline", "model"], "onnx": ["onnx"]}[way]
    for probabilities in found.values():
        np.testing.assert_allclose(np.array(probabilities), expected, atol=1e-4)


def test_all_engines_agree_whatever_the_order_and_the_company(exported):
    folder, _ = exported
    given = texts(20)
    for engine, tolerance in (("torch", 1e-5), ("onnx", 1e-4), ("onnx-int8", 0.05)):
        scorer = Scorer.load(str(folder), engine)
        together = scorer(given).probabilities
        np.testing.assert_allclose(together, Scorer.load(str(folder))(given).probabilities, atol=tolerance)
        alone = np.concatenate([scorer([text]).probabilities for text in reversed(given)])[::-1]
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_exported_folder_says_what_the_run_s_own_says(config, exported):
    folder, _ = exported
    ours, theirs = Scorer.load(f"{config.run.folder}/student"), Scorer.load(str(folder))
    assert ours.model.student == theirs.model.student
    np.testing.assert_allclose(theirs(texts()).calibrated, ours(texts()).calibrated, atol=1e-6)


def test_predict_says_what_the_run_s_own_predictions_say(config, exported, tmp_path):
    cohort = Cohort.open(config.run.artifacts_root)
    stage = Stage(cohort.root, "predictions", {})
    shards = cohort.select("tuning", "held_out")
    own = {row["visit_id"]: row for shard in shards for row in stage.read(shard.index).to_pylist()}
    visits = [
        row
        for split in SPLITS[1:]
        for shard in cohort.select(split)
        for row in cohort.read(shard, ["visit_id", "input"]).to_pylist()
    ]
    source = write_jsonl(tmp_path / "in.json", visits[::-1])
    for engine, folder in (("torch", f"{config.run.folder}/student"), ("onnx", exported[0])):
        out = tmp_path / engine
        assert (
            main(
                ["predict", source, "--model", str(folder), "--engine", engine, "--out", str(out), "data.shard_rows=50"]
            )
            == 0
        )
        found = {row["visit_id"]: row for row in pq.read_table(out / "predictions").to_pylist()}
        assert found.keys() == own.keys()
        for visit_id, row in found.items():
            np.testing.assert_allclose(
                row["probabilities"], own[visit_id]["probabilities"], atol=1e-5 if engine == "torch" else 1e-4
            )


def test_parity_and_the_loss_of_both_files_are_said(exported):
    folder, printed = exported
    assert "model.onnx agrees with torch within" in printed
    extra = FolderArtifact(str(folder), {}).load()["extra"]
    assert 0 <= extra["parity"] <= onnxfile.TOLERANCE
    for name, row in extra["engines"].items():
        assert f"export: {name}, {row['megabytes']:.1f} MB: macro AUROC loss {row['auroc_loss']:+.4f}" in printed
        assert row["auroc"] is not None and abs(row["auroc_loss"]) < 0.05
        assert f"| {name} |" in (folder / "README.md").read_text()
    assert "on 60 of 60 labelled tuning visits" in printed
    assert (folder / "model.int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size


def test_an_onnx_file_that_says_something_else_is_found(exported, tmp_path):
    folder = Path(shutil.copytree(exported[0], tmp_path / "copy"))
    assert onnxfile.require_parity(str(folder), 84, 32) <= onnxfile.TOLERANCE
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[24] += 0.001
    model.save_pretrained(folder)
    with pytest.raises(ArtifactError, match=r"differs from torch by 2\.\de-04"):
        onnxfile.require_parity(str(folder), 84, 32)


def test_without_the_onnx_packages_the_command_names_them_before_it_computes(tmp_path):
    script = (
        "import sys; sys.modules['onnxscript'] = None; sys.path.insert(0, '.')\n"
        "from jobs.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["export", "model", "--onnx", "--out", str(tmp_path / "model")]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "ckd: --onnx needs onnxscript; install it with: pip install 'ckd-ehr[onnx]'\n"


def test_the_folder_holds_the_names_the_card_and_the_hashes(config, exported):
    folder, _ = exported
    settings = json.loads((folder / "config.json").read_text())
    assert [settings["id2label"][str(i)] for i in range(25)] == list(DISEASES)
    assert settings["problem_type"] == "multi_label_classification"
    FolderArtifact(str(folder), {}).verify()
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "text-classification"
    assert "base_model" not in front  # a folder of this machine
    metrics = json.loads(Path(config.run.folder, "metrics.json").read_text())
    student = metrics["held_out"]["student"]
    assert f"| student | {student['macro']['auroc']:.3f}" in card
    for row in metrics["labels_in_macro"]:
        figures = student["per_label"][row["disease"]]
        assert f"{figures['positives']:,} of {figures['n']:,} | {figures['auroc']:.3f}" in card
    assert str(config.run.folder) not in card and config.student.base_model not in card


def test_a_small_sample_s_card_claims_nothing(config):
    metrics = json.loads(Path(config.run.folder, "metrics.json").read_text())
    metrics["counts"]["held_out"]["groups"] = 99
    card = model_card(metrics, Facts("x", "bert-base-uncased", 32, False, "", True, {}, ""))
    assert "No figures: fewer than 100 held-out patients." in card
    assert "base_model: bert-base-uncased" in card
    assert "must not be shared" in card
    assert "There is no calibration.json" in card
    assert "[" not in card.split("## Figures")[1].split("## Calibration")[0]


def test_again_it_is_done_with_onnx_it_is_replaced_and_nothing_of_others_is_touched(config, tmp_path):
    def export(folder: Path, **options: object) -> str:
        lines = io.StringIO()
        export_model.run(config, Console(lines), Namespace(**{"out": str(folder), "onnx": False, **options}))
        return lines.getvalue()

    assert "wrote" in export(tmp_path / "model")
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "model").iterdir()}
    assert "is done" in export(tmp_path / "model")
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "model").iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="holds files that are no export of a student"):
        export(tmp_path / "mine")
    with pytest.raises(ConfigError, match="holds files"):
        export(Path(config.run.folder, "student"))
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"
    content = json.loads((tmp_path / "model" / "artifact.json").read_text())
    content["fields"]["exported student"] = "another"
    del content[SEAL]
    (tmp_path / "model" / "artifact.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="export of another student"):
        export(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "model"]


def test_the_command_exports_and_says_what_is_missing(config, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(dump(config))
    assert main(["export", "model", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "model")]) == 0
    assert "wrote" in capsys.readouterr().out
    assert (
        main(
            ["export", "model", "--config", str(tmp_path / "c.yaml"), "run.name=none", "--out", str(tmp_path / "other")]
        )
        == 2
    )
    told = capsys.readouterr().err
    assert "no trained student" in told and told.count("\n") == 1


def test_figures_of_another_student_reach_no_card(config, tmp_path):
    run = tmp_path / "results" / "again"
    shutil.copytree(config.run.folder, run)
    metrics = json.loads((run / "metrics.json").read_text())
    again = config.model_copy(
        update={"run": config.run.model_copy(update={"results": str(run.parent), "name": run.name})}
    )
    for wrong in (metrics | {"model": "0" * 16}, {key: value for key, value in metrics.items() if key != "model"}):
        (run / "metrics.json").write_text(json.dumps(wrong))
        with pytest.raises(ArtifactError, match="is about another student.*run 'ckd evaluate' first"):
            export_model.run(again, Console(io.StringIO()), Namespace(out=str(tmp_path / "out"), onnx=False))
    assert not (tmp_path / "out").exists()
