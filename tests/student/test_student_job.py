"""`ckd train-student` as a whole: what it says, what it writes, how it ends."""

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ckd.config import Config
from ckd.errors import ArtifactError
from ckd.predict.predictions import PREDICTIONS, PredictWorker
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.student.export import write_public
from ckd.visits import public_files as compat
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES
from jobs import train_student
from jobs.console import Console
from jobs.predict_student import predict_splits
from jobs.stopping import StoppedError
from tests.student.student_cohort import make_cohort, make_config
from tests.student.trainings import VISITS, assert_same, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base) -> tuple[Config, str]:
    """The whole job and its predictions; what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    config = make_config(folder, base)
    make_cohort(folder / "artifacts", VISITS)
    stream = io.StringIO()
    console = Console(stream, config.run.folder)
    train_student.run(config, console)
    predict_splits(Run(config), console, ("tuning", "held_out"))
    return config, stream.getvalue()


def test_the_job_trains_the_same_student_and_says_what_it_did(finished, undisturbed):
    config, printed = finished
    assert_same(weights(config), weights(undisturbed[0]))
    assert (
        "lost text" in printed and "epoch 2, macro_auprc" in printed and f"wrote {config.run.folder}/student" in printed
    )


def test_a_student_of_which_only_the_export_is_missing_is_the_same_and_what_a_kill_left_of_checkpoints_goes(finished):
    config, _ = finished
    before, root = weights(config), Path(config.run.artifacts_root) / "checkpoints"
    whole = sorted(path.name for path in root.iterdir())
    (root / "step-0000001").mkdir()
    (root / "step-0000001/optimizer.pt").write_bytes(b"half removed")
    shutil.rmtree(f"{config.run.folder}/student")
    train_student.run(config, Console(io.StringIO()))
    assert_same(weights(config), before)
    assert sorted(path.name for path in root.iterdir()) == whole and len(whole) > 1


def test_the_exported_folder_loads_by_name_and_gives_the_stored_predictions(finished):
    config, _ = finished
    folder = f"{config.run.folder}/student"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [model.config.id2label[i] for i in range(25)] == list(DISEASES)
    assert model.config.problem_type == "multi_label_classification"
    cohort = Cohort.open(config.run.artifacts_root)
    for shard in cohort.select("tuning", "held_out"):
        rows = Stage(config.run.artifacts_root, PREDICTIONS.name, {}).read(shard.index).to_pylist()
        texts = cohort.read(shard, ["visit_id", "input"]).to_pylist()
        assert [r["visit_id"] for r in rows] == [t["visit_id"] for t in texts]
        for row, text in zip(rows, texts, strict=True):
            with torch.no_grad():
                logits = model(**tokenizer(text["input"], truncation=True, return_tensors="pt")).logits[0].numpy()
            assert np.allclose(row["logits"], logits, atol=1e-5)
            assert np.allclose(row["probabilities"], 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_a_student_whose_weights_have_lost_a_bit_predicts_nothing(finished, tmp_path):
    config, _ = finished
    shutil.copytree(config.run.results, tmp_path / "copy")
    place = {"results": str(tmp_path / "copy"), "artifacts": config.run.artifacts_root}
    run = Run(config.model_copy(update={"run": config.run.model_copy(update=place)}))
    file = Path(run.student_folder, "model.safetensors")
    flipped = bytearray(file.read_bytes())
    flipped[-9] ^= 1  # in a weight, which safetensors reads as another number
    file.write_bytes(flipped)
    for use in (PredictWorker, write_public):
        with pytest.raises(ArtifactError, match=r"model\.safetensors: missing or changed since it was written"):
            use(run)


def test_the_public_best_model_is_a_plain_state_dict(finished):
    config, _ = finished
    state = torch.load(compat.student_file(config.run.public_results, 0.9), weights_only=True)
    assert Path(compat.student_file(config.run.public_results, 0.9)).parent.name == "heads_results0.9"
    assert_same(state, load_file(f"{config.run.folder}/student/model.safetensors"))


def test_public_test_results_and_one_line_per_evaluation(tmp_path):
    path = compat.write_test_results(str(tmp_path), 0.9, torch.ones(2, 25), torch.zeros(2, 25), torch.rand(2, 25))
    assert set(torch.load(path, weights_only=True)) == {"all_preds", "all_labels_hard", "all_labels_soft"}
    for f1 in (0.5, 0.5, 0.6):
        figures = {"f1": f1, "accuracy": 0.9, "aupr": 0.4, "auc": None}
        metrics = {"public_code_metrics": {"student": figures}, "teacher_saw_held_out": f1 > 0.5}
        path = compat.append_test_metrics(str(tmp_path), compat.public_metrics_line(0.9, metrics))
    lines = Path(path).read_text().splitlines()
    wanted = "alpha：0.9，Test F1: {:.4f}, Accuracy: 0.9000, AUPR: 0.4000, AUC: nan{}"
    assert lines == [wanted.format(0.5, ""), wanted.format(0.6, ", teacher_saw_held_out")]


def test_a_finished_student_answers_without_torch_and_a_changed_one_is_refused(finished):
    config, _ = finished
    code = (
        "import sys, io; from jobs import train_student; from jobs.console import Console\n"
        "from ckd.config import Config; config = Config.model_validate_json(sys.argv[1]); stream = io.StringIO()\n"
        "train_student.run(config, Console(stream)); assert 'is done' in stream.getvalue()\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, config.model_dump_json()], check=True)
    other = config.model_copy(update={"student": config.student.model_copy(update={"hard_weight": 0.5})})
    with pytest.raises(ArtifactError, match=r"student\.hard_weight=0\.9, this run has student\.hard_weight=0\.5"):
        train_student.run(other, Console(io.StringIO()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_step_and_ends_with_what_is_kept_and_the_way_on(tmp_path, base, number):
    config = make_config(tmp_path, base)
    make_cohort(tmp_path / "artifacts", VISITS)
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=r"step 1 of the student is saved; run the same command again") as stopped:
        train_student.run(config, Killer(io.StringIO(), number))
    assert stopped.value.exit_code == (130 if number == signal.SIGINT else 3)
    assert [path.name for path in (tmp_path / "artifacts/checkpoints").iterdir()] == ["step-0000001"]
    assert signal.getsignal(number) == before


class Killer(Console):
    """A console that sends a signal to its process when the first line of training is said."""

    def __init__(self, stream: io.StringIO, number: int) -> None:
        super().__init__(stream)
        self.number = number

    def say(self, line: str) -> None:
        if line.startswith("train-student: the best epoch"):
            os.kill(os.getpid(), self.number)
