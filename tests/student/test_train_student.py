"""The student's training in this process: division into micro-batches, what it learns from, refusals."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers.models.bert.modeling_bert import BertAttention

from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError, DataError
from ckd.predict.predictions import PREDICTIONS
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.student.train import best_checkpoint
from ckd.visits.cohort import Cohort
from ckd.visits.visit import Shard
from jobs import train_student
from jobs.console import Console
from jobs.predict_student import predict_splits
from tests.student.student_cohort import make_base, make_cohort, make_config, make_visits
from tests.student.trainings import VISITS, Ear, MachineLostError, assert_same, prepared, run_train, weights


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
    """One teacher knows which words bring which label and says so of 120 visits without labels, the other does not."""
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
