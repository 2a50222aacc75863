"""Embedding matching: its loss, exact resume, what it reads, and that the exported student does not have it."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from ckd.errors import ArtifactError
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.student.loss import PROJECTION, Embeddings, attach, measure
from ckd.student.model import load_student, new_student
from ckd.student.train import best_checkpoint
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES
from jobs import train_student
from jobs.console import Console
from tests.student.student_cohort import make_cohort, make_config, make_embeddings, make_tokens
from tests.student.trainings import VISITS, Ear, MachineLostError, run_train, weights


def prepared(folder, base, visits=VISITS, only=None, **student):
    config = make_config(folder, base, **{"embedding_weight": 0.5, **student})
    make_cohort(config.run.artifacts_root, visits)
    make_embeddings(config, only=only)
    make_tokens(config)
    return config


def plain_loss(projected, embedding, mean, deviation) -> float:
    target = [(e - m) / d for e, m, d in zip(embedding, mean, deviation, strict=True)]
    dot = sum(p * t for p, t in zip(projected, target, strict=True))
    return 1 - dot / math.sqrt(sum(p * p for p in projected) * sum(t * t for t in target))


def matching_loss(projected, embedding, scale):
    return Embeddings(1.0, *scale)({"projected": projected}, {"embeddings": embedding})


def test_the_loss_is_one_minus_the_cosine_with_the_standardised_embedding_and_knows_no_scale():
    generator = torch.Generator().manual_seed(0)
    projected, embedding = torch.randn(2, 5, 7, generator=generator)
    mean, deviation = torch.randn(7, generator=generator), torch.rand(7, generator=generator) + 0.5
    wanted = [
        plain_loss(projected[i].tolist(), embedding[i].tolist(), mean.tolist(), deviation.tolist()) for i in range(5)
    ]
    assert matching_loss(projected, embedding, (mean, deviation)).tolist() == pytest.approx(wanted, abs=1e-6)
    assert matching_loss(projected * 9, embedding * 1e3, (mean * 1e3, deviation * 1e3)).tolist() == pytest.approx(
        wanted, abs=1e-6
    )
    embedding[2] = 0
    assert matching_loss(projected, embedding, (mean, deviation)).tolist() == pytest.approx(
        [*wanted[:2], 0, *wanted[3:]], abs=1e-6
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_the_scale_measured_part_by_part_is_that_of_all_rows(sizes, seed):
    rows = np.random.default_rng(seed).normal(300, 0.5, (sum(sizes), 4)).astype(np.float32)
    rows[:, 2] = 5
    mean, found = measure(np.split(rows, np.cumsum(sizes)[:-1]))
    whole = rows.astype(np.float64)
    assert np.allclose(mean, whole.mean(0), rtol=1e-6)
    deviation = whole.std(0)
    assert np.allclose(found, np.where(deviation > 0, deviation, 1), rtol=1e-5)
    assert found[2] == 1


def test_the_projection_depends_on_the_seed_alone_and_sees_the_first_token(tmp_path, base):
    config = make_config(tmp_path, base, dropout=0.0)
    models = [new_student(config, DISEASES).model for _ in range(2)]
    for model in models:
        torch.rand(3)  # other random numbers drawn before change nothing
        attach(model.eval(), 6, config.seed)
    one, other = (getattr(model, PROJECTION) for model in models)
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
    ids = torch.tensor([[2, 5, 9, 3]])
    output = models[0](input_ids=ids)
    assert torch.allclose(output.projected, one(models[0].base_model(ids).last_hidden_state[:, 0]))
    output.projected.sum().backward()
    assert (
        one.weight.grad.abs().sum() > 0
        and models[0].base_model.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    )


def run(config, stop_at=None):
    return run_train(config, Ear(stop_at)).losses()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base):
    config = prepared(tmp_path_factory.mktemp("undisturbed"), base)
    return config, run(config)


def test_a_stopped_run_continues_exactly_the_projection_included(tmp_path, base, undisturbed):
    config = prepared(tmp_path, base)
    with pytest.raises(MachineLostError):
        run(config, stop_at=3)
    assert run(config) == {step: loss for step, loss in undisturbed[1].items() if step > 3}
    one, other = weights(config), weights(undisturbed[0])
    assert f"{PROJECTION}.weight" in one and one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulation_changes_no_loss(tmp_path, base):
    found = [run(prepared(tmp_path / str(n), base, dropout=0.0, epochs=1, gradient_accumulation=n)) for n in (1, 3)]
    assert list(found[0].values()) == pytest.approx(list(found[1].values()), abs=1e-5)


def test_training_reads_no_embedding_of_tuning_or_held_out_visits(tmp_path, base, undisturbed):
    config = prepared(tmp_path, base, only="train")
    assert run(config) == undisturbed[1]


def test_the_embedding_loss_falls(undisturbed, tmp_path, base):
    """Over a longer training: the projection of a visit comes to point where its embedding does."""
    config = prepared(tmp_path, base, embedding_weight=50, dropout=0.0, epochs=12, learning_rate=1e-2)
    losses = list(run(config).values())
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


def test_the_exported_student_has_no_projection_and_loads_unchanged(undisturbed):
    config, _ = undisturbed
    train_student.run(config, Console(open("/dev/null", "w")))
    folder = f"{config.run.folder}/student"
    model, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    trained = load_student(best_checkpoint(Run(config), print).fetched())
    ids = torch.tensor([[2, 5, 9, 3]])
    assert torch.equal(model.eval()(ids).logits, trained.eval()(ids).logits)
    assert PROJECTION not in json.dumps(list(load_file(f"{folder}/model.safetensors")))


def test_missing_other_and_stale_embeddings_are_refused_by_name(tmp_path, base, undisturbed):
    config = prepared(tmp_path, base)
    root = config.run.artifacts_root
    stage, shard = Stage(root, "embeddings", {"teacher": "another"}), Cohort.open(root).select("train")[0]
    table, footer = stage.read(shard.index), stage.footer(shard.index)
    stage.delete(shard.index)
    with pytest.raises(ArtifactError, match=r"run 'ckd embed' first, or set student\.embedding_weight=0"):
        run(config)
    stage.write(shard.index, table, rows=shard.rows, input_hash=footer.input_hash)
    with pytest.raises(ArtifactError, match=r"made in 2 different ways.*'ckd embed'"):
        run(config)
    stage.write(shard.index, table, rows=shard.rows, input_hash="of other texts")
    with pytest.raises(ArtifactError, match=r"made from other visits.*'ckd embed'"):
        run(config)


def test_a_checkpoint_made_with_other_embeddings_is_refused(tmp_path, base):
    config = prepared(tmp_path, base, epochs=1)
    run(config)
    stage = Stage(config.run.artifacts_root, "embeddings", {"teacher": "another"})
    for shard in Cohort.open(config.run.artifacts_root).select("train"):
        stage.write(shard.index, stage.read(shard.index), rows=shard.rows, input_hash=shard.text_hash)
    with pytest.raises(ArtifactError, match="made with embeddings="):
        run(config)
