"""The student's training in this process: exact resume, division into micro-batches, refusals, outputs."""

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.bert.modeling_bert import BertAttention

from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError, DataError, IncompleteError, UnreachableError
from ckd.predict.predictions import PREDICTIONS
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.store.files import join, read_bytes, write_bytes
from ckd.store.folders import list_folders
from ckd.student.train import best_checkpoint, train
from ckd.visits import public_files as compat
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES
from ckd.visits.visit import Shard
from jobs import train_student
from jobs.console import Console
from jobs.predict_student import predict_splits
from tests.store.object_store import BUCKET, no_fault, proxy, s3_server
from tests.student.student_cohort import at_url, make_base, make_cohort, make_config, make_tokens, make_visits

VISITS = [*make_visits("train", 30), *make_visits("tuning", 55), *make_visits("held_out", 10)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


class MachineLostError(Exception):
    """The machine went away."""


class Ear:
    """Collects reports; raises MachineLostError at the first checkpoint at or after a step, as a lost machine would end the process."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.reports, self.finished = stop_at, [], False

    def __call__(self, figures) -> None:
        self.reports.append(figures)
        if self.stop_at is not None and figures.get("checkpoint", -1) >= self.stop_at:
            raise MachineLostError

    def norms(self) -> dict[int, float]:
        return {r["step"]: r["gradient_norm"] for r in self.reports if "loss" in r}

    def losses(self) -> dict[int, float]:
        return {r["step"]: r["loss"] for r in self.reports if "loss" in r}


def run_train(config: Config, ear: Ear | None = None, preempted=lambda: False) -> Ear:
    ear = ear or Ear()
    ear.finished = train(
        Run(config), world=1, rank=0, preempted=preempted, report=ear, deepspeed=False, seconds_between=0
    )
    return ear


def prepared(folder: Path, base: str, visits=VISITS, root: str = "", **student) -> Config:
    config = make_config(folder, base, **student)
    config = at_url(config, root) if root else config
    make_cohort(config.run.artifacts_root, visits)
    make_tokens(config)
    return config


def weights(config: Config) -> dict[str, torch.Tensor]:
    return load_file(Path(best_checkpoint(Run(config), print).fetched()) / "model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base) -> tuple[Config, Ear]:
    """A whole training with dropout: 2 epochs of 4 steps, checkpoints at 3, 4, 6, 8."""
    config = prepared(tmp_path_factory.mktemp("undisturbed"), base)
    return config, run_train(config)


@pytest.mark.parametrize("stops", [(3,), (4,), (3, 4, 6, 8)])
def test_a_run_stopped_at_checkpoints_continues_exactly_dropout_included(tmp_path, base, undisturbed, stops):
    config = prepared(tmp_path, base)
    losses: dict[int, float] = {}
    for stop in stops:
        ear = Ear(stop)
        with pytest.raises(MachineLostError):
            run_train(config, ear)
        losses |= ear.losses()
    losses |= run_train(config).losses()
    assert losses == undisturbed[1].losses()
    assert best_checkpoint(Run(config), print).extra == best_checkpoint(Run(undisturbed[0]), print).extra
    assert_same(weights(config), weights(undisturbed[0]))


@pytest.fixture(scope="module")
def gate():
    with s3_server() as port, proxy(port) as made:
        yield made


@pytest.fixture
def bucket(gate, tmp_path, monkeypatch):
    """A URL on an S3 server, and the local cache of what lies there."""
    environment = {
        "AWS_ENDPOINT_URL": gate.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "XDG_CACHE_HOME": str(tmp_path / "c"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    gate.fault = no_fault


def test_checkpoints_on_an_object_store_that_fails_now_and_then_continue_exactly(
    tmp_path, base, undisturbed, bucket, gate
):
    config = prepared(tmp_path, base, root=bucket)
    gate.fault = lambda number, method, path: (500 if number % 12 else "cut") if number % 6 == 0 else None
    with pytest.raises(MachineLostError):
        run_train(config, Ear(4))
    broken = join(config.run.artifacts_root, "checkpoints", "step-0000004", "model.safetensors")
    write_bytes(broken, read_bytes(broken)[:-1] + b"?")
    ear = run_train(config)
    assert any("step-0000004" in r.get("line", "") and "not whole" in r["line"] for r in ear.reports)
    assert {"started": 3, "world": 1} in ear.reports
    assert_same(weights(config), weights(undisturbed[0]))
    assert list_folders(join(config.run.artifacts_root, "checkpoints")) == ["step-0000006", "step-0000008"], (
        "old ones are pruned"
    )
    left = [
        path
        for path in (tmp_path / "c").rglob("*")
        if path.is_file() and path.suffix != ".lock" and "optimizer" in path.name
    ]
    assert len(left) == 1, "of what it continued from nothing stays; what `weights` fetched does"


def test_a_store_that_stays_away_ends_training_with_the_way_on(tmp_path, base, bucket, gate):
    config = prepared(tmp_path, base, root=bucket)

    def away(number: int, method: str, path: str) -> int | None:
        return 503 if "checkpoints/step-0000006" in path and method == "PUT" else None

    gate.fault = away
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_MAX_ATTEMPTS", "2")
        with pytest.raises(UnreachableError):
            run_train(config)
    gate.fault = no_fault
    assert {"started": 4, "world": 1} in run_train(config).reports


@pytest.mark.parametrize("notice", [2, 4])
def test_a_preemption_saves_the_step_and_leaves_and_no_step_is_lost(tmp_path, base, undisturbed, notice):
    """Step 2 lies within an epoch, step 4 ends one: its tuning score must not be skipped."""
    config = prepared(tmp_path, base)
    answers = iter([step == notice for step in range(1, 9)])
    ear = run_train(config, preempted=lambda: next(answers))
    assert not ear.finished and [r["checkpoint"] for r in ear.reports if "checkpoint" in r][-1] == notice == max(
        ear.losses()
    )
    after = run_train(config)
    assert after.finished and {"started": notice, "world": 1} in after.reports
    assert ear.losses() | after.losses() == undisturbed[1].losses() and not ear.losses().keys() & after.losses().keys()
    assert best_checkpoint(Run(config), print).extra == best_checkpoint(Run(undisturbed[0]), print).extra
    assert_same(weights(config), weights(undisturbed[0]))


def test_gradient_accumulation_changes_no_loss_and_no_gradient(tmp_path, base):
    ears = [
        run_train(prepared(tmp_path / str(n), base, dropout=0.0, gradient_accumulation=n, temperature=2.0))
        for n in (1, 2)
    ]
    assert list(ears[0].losses()) == list(ears[1].losses()) == list(range(1, 9))
    assert list(ears[1].losses().values()) == pytest.approx(list(ears[0].losses().values()), abs=1e-5)
    # Adam hides a gradient of twice the size; its norm shows it.
    assert list(ears[1].norms().values()) == pytest.approx(list(ears[0].norms().values()), rel=1e-3)


def test_activation_checkpointing_computes_twice_and_changes_no_weight_dropout_included(
    tmp_path, base, undisturbed, monkeypatch
):
    forward, calls = BertAttention.forward, []
    monkeypatch.setattr(
        BertAttention,
        "forward",
        lambda *given, **more: calls.append(torch.is_grad_enabled()) or forward(*given, **more),
    )
    config = prepared(tmp_path, base, activation_checkpointing=True)
    ear = run_train(config)
    assert sum(calls) == 2 * 8, "each of 8 steps went through the layer twice"
    assert ear.losses() == undisturbed[1].losses() and ear.norms() == undisturbed[1].norms()
    assert_same(weights(config), weights(undisturbed[0]))


def test_no_held_out_label_reaches_the_student(tmp_path, base, undisturbed):
    poisoned = [replace(v, labels=tuple(not flag for flag in v.labels)) if v.split == "held_out" else v for v in VISITS]
    config = prepared(tmp_path, base, poisoned)
    held_out = Cohort.open(config.run.artifacts_root).select("held_out")
    for shard in held_out:
        Path(Stage(config.run.artifacts_root, "visits", {}).path(shard.index)).unlink()
    run_train(config)
    assert_same(weights(config), weights(undisturbed[0]))


@pytest.mark.parametrize(
    ("setting", "value"), [("hard_weight", 0.5), ("epochs", 3), ("learning_rate", 2e-3), ("temperature", 2.0)]
)
def test_a_changed_setting_is_refused_by_name(tmp_path, base, setting, value):
    config = prepared(tmp_path, base)
    with pytest.raises(MachineLostError):
        run_train(config, Ear(3))
    other = make_config(tmp_path, base, **{setting: value})
    with pytest.raises(ArtifactError, match=f"this run has student.{setting}={value}"):
        run_train(other)


def test_other_soft_labels_and_another_base_model_are_refused_by_name(tmp_path, base):
    config = prepared(tmp_path, base)
    with pytest.raises(MachineLostError):
        run_train(config, Ear(3))
    wider = make_config(tmp_path, make_base(tmp_path / "wider", hidden=32))
    with pytest.raises(ArtifactError, match="this run has student.base_model="):
        run_train(wider)
    make_cohort(tmp_path / "artifacts", VISITS, soft_seed=1)
    with pytest.raises(ArtifactError, match="this run has soft_labels="):
        run_train(config)


def test_few_tuning_visits_train_all_epochs_and_say_so(tmp_path, base):
    config = prepared(tmp_path, base, VISITS[:40])
    ear = run_train(config)
    assert "10 tuning visits" in ear.reports[0]["line"] and "last one is kept" in ear.reports[0]["line"]
    assert best_checkpoint(Run(config), print).step == 8


def test_no_tuning_visits_train_all_epochs(tmp_path, base):
    config = prepared(tmp_path, base, VISITS[:30])
    run_train(config)
    assert best_checkpoint(Run(config), print).step == 8


def test_patience_stops_training_early(tmp_path, base):
    config = prepared(tmp_path, base, epochs=8, patience=1, learning_rate=1e-9)
    ear = run_train(config)
    epochs = [r["epoch"] for r in ear.reports if "epoch" in r]
    assert len(epochs) < 8 and epochs[-1] == best_checkpoint(Run(config), print).extra["selection"]["best_epoch"] + 1


def test_unlabeled_visits_teach_by_their_soft_labels_alone(tmp_path, base):
    visits = [*VISITS, *make_visits("train", 10, labeled=False)]
    ear = run_train(prepared(tmp_path / "a", base, visits, use_unlabeled=True, epochs=1))
    assert max(ear.losses()) == 5
    ear = run_train(prepared(tmp_path / "b", base, visits, epochs=1))
    assert max(ear.losses()) == 4


def test_a_student_learns_from_unlabeled_visits_what_its_few_labelled_ones_do_not_show(tmp_path, base):
    """One teacher knows which words bring which label and says so of 120 visits without labels; the other one says anything."""
    visits = [*make_visits("train", 8), *make_visits("train", 120, labeled=False), *make_visits("held_out", 30)]
    distance = []
    for name in ("wise", "foolish"):
        config = make_config(
            tmp_path / name,
            base,
            use_unlabeled=True,
            epochs=8,
            learning_rate=2e-2,
            hard_weight=1.0,
            checkpoint_steps=1000,
        )
        cohort = make_cohort(config.run.artifacts_root, visits, shard_rows=128)
        for shard in cohort.select("train", labeled=False) if name == "wise" else []:
            say_what_the_words_say(config, shard)
        train_student.run(config, Console(io.StringIO()))
        predict_splits(Run(config), Console(io.StringIO()), ["held_out"])
        (held_out,) = cohort.select("held_out")
        logits = np.array(
            Stage(config.run.artifacts_root, PREDICTIONS.name, {})
            .read(held_out.index, ["logits"])["logits"]
            .to_pylist()
        )
        truth = np.array(cohort.read(held_out, ["labels"])["labels"].to_pylist())
        distance.append(
            np.mean([logits[t, i].mean() - logits[~t, i].mean() for i, t in enumerate(truth.T) if 0 < t.sum() < len(t)])
        )
    assert distance[0] > 0.3 and abs(distance[1]) < 0.3 * distance[0], distance


def say_what_the_words_say(config: Config, shard: Shard) -> None:
    """Soft labels of a teacher who knows the rule of make_visits."""
    stage = Stage(config.run.artifacts_root, "soft_labels", {"head": "made up 0"})
    table, texts = (
        stage.read(shard.index),
        Cohort.open(config.run.artifacts_root).read(shard, ["input"])["input"].to_pylist(),
    )
    known = [
        [4.0 if {f"w{i:02d}", f"w{i + 25:02d}"} & set(text.split()) else -4.0 for i in range(25)] for text in texts
    ]
    table = table.set_column(
        table.schema.get_field_index("logits"), "logits", pa.array(known, pa.list_(pa.float32(), 25))
    )
    stage.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)


def test_without_labelled_training_visits_the_remedy_is_named(tmp_path, base):
    with pytest.raises(DataError, match=r"data\.train"):
        run_train(prepared(tmp_path, base, VISITS[30:]))


def test_a_loss_that_explodes_names_the_setting(tmp_path, base):
    with pytest.raises(ConfigError, match=r"student\.learning_rate"):
        run_train(prepared(tmp_path, base, learning_rate=1e30, warmup_share=0))


def test_more_tokens_than_positions_are_refused(tmp_path, base):
    with pytest.raises(ConfigError, match=r"student.max_length=65: .* knows 64 positions"):
        prepared(tmp_path, base, max_length=65)


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


def test_the_public_best_model_is_a_plain_state_dict(finished):
    config, _ = finished
    state = torch.load(compat.student_file(config.run.results, 0.9), weights_only=True)
    assert Path(compat.student_file(config.run.results, 0.9)).parent.name == "heads_results0.9"
    assert_same(state, load_file(f"{config.run.folder}/student/model.safetensors"))


def test_public_test_results_and_one_line_per_evaluation(tmp_path):
    path = compat.write_test_results(str(tmp_path), 0.9, torch.ones(2, 25), torch.zeros(2, 25), torch.rand(2, 25))
    assert set(torch.load(path, weights_only=True)) == {"all_preds", "all_labels_hard", "all_labels_soft"}
    for f1 in (0.5, 0.5, 0.6):
        path = compat.append_test_metrics(str(tmp_path), 0.9, f1=f1, accuracy=0.9, aupr=0.4, auc=0.7)
    lines = Path(path).read_text().splitlines()
    assert lines == [f"alpha：0.9，Test F1: {f1:.4f}, Accuracy: 0.9000, AUPR: 0.4000, AUC: 0.7000" for f1 in (0.5, 0.6)]


def test_a_finished_student_answers_without_torch_and_a_changed_one_is_refused(finished):
    config, _ = finished
    code = (
        "import sys, io; from jobs import train_student; from jobs.console import Console; from ckd.config import Config\n"
        "config = Config.model_validate_json(sys.argv[1]); stream = io.StringIO(); train_student.run(config, Console(stream))\n"
        "assert 'is done' in stream.getvalue(); assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, config.model_dump_json()], check=True)
    other = config.model_copy(update={"student": config.student.model_copy(update={"hard_weight": 0.5})})
    with pytest.raises(ArtifactError, match=r"student\.hard_weight=0\.9, this run has student\.hard_weight=0\.5"):
        train_student.run(other, Console(io.StringIO()))


def test_termination_saves_the_step_and_ends_with_the_way_on(tmp_path, base):
    config = make_config(tmp_path, base)
    make_cohort(tmp_path / "artifacts", VISITS)
    os_kill, before = Killer(io.StringIO()), signal.getsignal(signal.SIGTERM)
    with pytest.raises(IncompleteError, match="run the same command again"):
        train_student.run(config, os_kill)
    assert signal.getsignal(signal.SIGTERM) == before


class Killer(Console):
    """A console that sends SIGTERM to its process when the first line of training is said."""

    def say(self, line: str) -> None:
        if line.startswith("train-student: the best epoch"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.6])
def test_a_killed_process_continues_to_the_same_weights(tmp_path, base, seconds):
    """SIGKILL at some moment after the first checkpoint, then the same command again."""
    code = (
        "import sys; from jobs import train_student; from jobs.console import Console; from ckd.config import Config\n"
    )
    code += "train_student.run(Config.model_validate_json(sys.argv[1]), Console(sys.stdout))"
    configs = [make_config(tmp_path / name, base, epochs=12) for name in ("killed", "whole")]
    for config in configs:
        make_cohort(Path(config.run.artifacts_root), VISITS)
    command = [sys.executable, "-c", code, configs[0].model_dump_json()]
    process = subprocess.Popen(command)
    first = Path(configs[0].run.artifacts_root) / "checkpoints" / "step-0000003" / "artifact.json"
    while not first.exists():
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True)
    subprocess.run([*command[:3], configs[1].model_dump_json()], check=True)
    assert_same(weights(configs[0]), weights(configs[1]))
