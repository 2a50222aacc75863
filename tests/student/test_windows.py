"""Texts longer than the student reads: what each way keeps, windows that cover the text, their mean, and training on them."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ModernBertConfig, ModernBertModel

from ckd.predict.predictions import STAGE as PREDICTIONS
from ckd.predict.predictions import predict_logits
from ckd.store.artifacts import Stage
from ckd.store.folders import fetched_folder
from ckd.student.examples import Examples
from ckd.student.fingerprint import student_fields, token_fields
from ckd.student.model import load_student
from ckd.student.tokens import encode, load_tokenizer
from ckd.student.train import train
from ckd.student.windows import MOST, cut, mean_per_visit, mean_with_gradient
from ckd.visits.cohort import Cohort
from ckd.visits.labels import INSTRUCTION
from ckd.visits.visit import Visit
from jobs import train_student
from jobs.console import Console
from jobs.predict_student import predict_splits
from tests.student.student_cohort import make_base, make_cohort, make_config, make_embeddings, make_tokens, make_visits


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 30))
def test_what_is_kept(length, room):
    content = list(range(length))
    for way in ("head", "head_tail", "windows"):
        pieces, lost = cut(content, room, way)
        assert all(len(piece) <= room for piece in pieces) and len(pieces) <= MOST
        kept = {token for piece in pieces for token in piece}
        assert lost == (kept != set(content))
        if length <= room:
            assert pieces == [content]
        elif way == "head":
            assert pieces == [content[:room]]
        elif way == "head_tail":
            head = max(round(room * 128 / 510), 1)
            assert pieces == [content[:head] + (content[-(room - head) :] if room > head else [])]
        else:
            assert all(piece == list(range(piece[0], piece[0] + room)) for piece in pieces), (
                "full windows of neighbours"
            )
            assert all(later[0] - earlier[0] <= room - int(room / 4) for earlier, later in pairwise(pieces))


@pytest.mark.parametrize("way", ["head", "head_tail", "windows"])
def test_every_sequence_has_the_special_tokens_and_short_texts_stay(base, way):
    tokenizer = load_tokenizer(base)
    texts = [
        "w01 w02",
        " ".join(f"w{i:02d}" for i in range(6)),
        " ".join(f"w{i:02d}" for i in range(30)),
        " ".join(["w05"] * 63),
    ]
    pieces, lost = encode(tokenizer, texts, 8, way)
    assert all(row[0] == 2 and row[-1] == 3 and len(row) <= 8 for sequences in pieces for row in sequences)
    assert [len(sequences) for sequences in pieces] == ([1, 1, 6, MOST] if way == "windows" else [1] * 4)
    assert lost == ([False, False, False, True] if way == "windows" else [False, False, True, True])
    if way == "head":
        assert [row[0] for row in pieces] == tokenizer(texts, truncation=True, max_length=8)["input_ids"]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 9))
def test_the_mean_is_that_of_each_visits_windows_in_both_forms(counts, seed):
    values = np.random.default_rng(seed).normal(size=(sum(counts), 3)).astype(np.float32)
    wanted = np.stack([part.mean(0) for part in np.split(values, np.cumsum(counts)[:-1])])
    assert np.allclose(mean_per_visit(values, counts), wanted, atol=1e-6)
    visit = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    assert np.allclose(mean_with_gradient(torch.from_numpy(values), visit, len(counts)), wanted, atol=1e-6)


def long_visits(split, count, seed=0):
    """Every other text has three times as many words as one window of 16 tokens."""
    found = []
    for i, visit in enumerate(make_visits(split, count, seed=seed)):
        text = " ".join((visit.input.split() * 12)[: 42 if i % 2 else 9])
        found.append(Visit(visit.visit_id, INSTRUCTION, text, visit.labels, visit.subject_id, split))
    return found


VISITS = [*long_visits("train", 20), *long_visits("tuning", 55), *long_visits("held_out", 6)]


def prepared(folder, base, **student):
    config = make_config(
        folder, base, **{"max_length": 16, "long_text": "windows", "dropout": 0.0, "epochs": 1, **student}
    )
    make_cohort(config.run.artifacts_root, VISITS)
    make_embeddings(config)
    make_tokens(config)
    return config


def run(config):
    heard = []
    train(config, world=1, rank=0, preempted=lambda: False, report=heard.append, deepspeed=False, seconds_between=0)
    return [(r["loss"], r["gradient_norm"]) for r in heard if "loss" in r], [
        r["tuning_score"] for r in heard if "epoch" in r
    ]


def test_the_windows_of_a_visit_share_its_loss_at_any_accumulation(tmp_path, base):
    """And so do gradients: their norm before clipping is compared too. Embedding matching takes the mean over windows as well."""
    (one, score), (three, again) = (
        run(prepared(tmp_path / str(n), base, embedding_weight=0.5, gradient_accumulation=n)) for n in (1, 3)
    )
    assert np.allclose(one, three, atol=1e-5) and score == pytest.approx(again, abs=1e-4)


def test_the_first_steps_loss_is_that_of_the_mean_over_windows_computed_one_by_one(tmp_path, base):
    from ckd.student.batches import Batches
    from ckd.student.model import new_student

    config = prepared(tmp_path, base, hard_weight=1.0)
    cohort = Cohort.open(config.run.artifacts_root)
    examples = Examples(
        config.run.artifacts_root, cohort.select("train"), token_fields(config), hard_weight=1.0, soft=False
    )
    rows = Batches(examples, seed=config.seed, batch_size=8, pad_id=0).global_batch(0, 0)
    model = new_student(config).eval()
    total = 0.0
    with torch.no_grad():
        for shard, row in rows:
            windows = [
                model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].double().numpy()
                for ids in examples[shard].sequences(row)
            ]
            z, y = np.mean(windows, axis=0), examples[shard].hard[row]
            total += float((np.logaddexp(0, z) - y * z).mean())
    assert max(len(examples[shard].sequences(row)) for shard, row in rows) > 1
    assert run(config)[0][0][0] == pytest.approx(total / 8, abs=1e-5)


@pytest.mark.parametrize("way", ["head_tail", "windows"])
def test_the_job_counts_what_was_lost_and_predicts_as_training_scored(tmp_path, base, way):
    config = make_config(tmp_path, base, max_length=16, long_text=way, epochs=1)
    make_cohort(config.run.artifacts_root, VISITS)
    stream = io.StringIO()
    train_student.run(config, Console(stream))
    predict_splits(config, Console(stream), ["held_out"])
    lost = "37 of 75 visits exceeded student.max_length=16 and lost text from their middle"
    assert (lost in stream.getvalue()) == (way == "head_tail")
    cohort = Cohort.open(config.run.artifacts_root)
    shard = cohort.select("held_out")[0]
    model = load_student(fetched_folder(f"{config.run.folder}/student")).eval()
    texts = cohort.read(shard, ["input"])["input"].to_pylist()
    pieces, _ = encode(AutoTokenizer.from_pretrained(f"{config.run.folder}/student"), texts, 16, way)
    wanted = [predict_logits(model, "cpu", [np.asarray(p) for p in row], 0).mean(0) for row in pieces]
    found = Stage(config.run.artifacts_root, PREDICTIONS, {}).read(shard.index, ["logits"])["logits"].to_pylist()
    assert np.allclose(found, wanted, atol=1e-5)


def test_only_a_changed_way_is_in_the_fingerprints(tmp_path, base):
    configs = [make_config(tmp_path, base, **student) for student in ({}, {"long_text": "windows"})]
    cohort = make_cohort(configs[0].run.artifacts_root, make_visits("train", 4))
    assert token_fields(configs[1]) == token_fields(configs[0]) | {"student.long_text": "windows"}
    assert student_fields(configs[1], cohort) == student_fields(configs[0], cohort) | {"student.long_text": "windows"}


def test_a_long_context_encoder_reads_long_texts_whole_and_matches_embeddings(tmp_path, base):
    folder = tmp_path / "modern"
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    settings = ModernBertConfig(
        vocab_size=84,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    )
    torch.manual_seed(0)
    ModernBertModel(settings).save_pretrained(folder)
    losses, _ = run(
        prepared(tmp_path / "run", str(folder), max_length=64, long_text="head", embedding_weight=0.5, dropout=None)
    )
    assert len(losses) == 3 and all(math.isfinite(loss) for loss, _ in losses)
