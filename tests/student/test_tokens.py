"""Stage `tokens`: a long text keeps its beginning, in training, tuning scores and predictions alike."""

import io
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer, ModernBertConfig, ModernBertModel

from ckd.predict.predictions import PREDICTIONS
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.store.copies import fetched_folder
from ckd.store.pretrained import Source, load_tokenizer
from ckd.student.batches import Batches
from ckd.student.examples import Examples
from ckd.student.model import load_student, new_student
from ckd.student.tokens import ragged, token_fields, tokenize
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES, INSTRUCTION
from ckd.visits.visit import Visit
from jobs import train_student
from jobs.console import Console
from jobs.predict_student import predict_splits
from tests.student.student_cohort import make_cohort, make_config, make_embeddings, make_tokens, make_visits
from tests.student.trainings import run_train


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(Source.find("student.base_model", base))


def table_of(tokenizer, texts: list[str], max_length: int = 8) -> pa.Table:
    return tokenize(tokenizer, pa.table({"visit_id": [str(i) for i in range(len(texts))], "input": texts}), max_length)


def test_truncation_keeps_the_special_tokens_and_is_counted(tokenizer):
    table = table_of(tokenizer, ["w01 " * n for n in (1, 6, 7, 40)])
    ids = table["input_ids"].to_pylist()
    assert [len(row) for row in ids] == [3, 8, 8, 8]
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in ids)
    assert table["truncated"].to_pylist() == [False, False, True, True]
    assert table.schema.field("input_ids").type == pa.list_(pa.int32())


def test_a_long_text_keeps_its_beginning_whatever_side_the_tokenizer_would_cut(base):
    words = [f"w{i:02d}" for i in range(30)]
    for side in ("right", "left"):
        tokenizer = AutoTokenizer.from_pretrained(base, truncation_side=side)
        (ids,) = table_of(tokenizer, [" ".join(words)])["input_ids"].to_pylist()
        assert ids == [2, *range(4, 10), 3]
        assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == words[:6]


def test_flat_tokens_are_each_visits_own(tokenizer):
    table = table_of(tokenizer, ["w01", "", "w02 " * 40])
    ids, offsets = ragged(table["input_ids"])
    assert [part.tolist() for part in np.split(ids, offsets[1:-1])] == table["input_ids"].to_pylist()
    assert (ids.dtype, offsets.dtype, len(offsets)) == (np.int32, np.int64, 4)


def long_visits(split, count):
    """Every other text has three times as many words as 16 tokens hold."""
    found = []
    for i, visit in enumerate(make_visits(split, count)):
        text = " ".join((visit.input.split() * 12)[: 42 if i % 2 else 9])
        found.append(Visit(visit.visit_id, INSTRUCTION, text, visit.labels, visit.subject_id, split))
    return found


VISITS = [*long_visits("train", 20), *long_visits("tuning", 55), *long_visits("held_out", 6)]


def prepared(folder, base, **student):
    config = make_config(folder, base, **{"max_length": 16, "dropout": 0.0, "epochs": 1, **student})
    make_cohort(config.run.artifacts_root, VISITS)
    make_embeddings(config)
    make_tokens(config)
    return config


def losses(config) -> list[float]:
    return [*run_train(config).losses().values()]


def test_the_first_steps_loss_is_that_of_the_visits_computed_one_by_one(tmp_path, base):
    config = prepared(tmp_path, base, hard_weight=1.0)
    cohort = Cohort.open(config.run.artifacts_root)
    examples = Examples(config.run.artifacts_root, cohort.select("train"), token_fields(config), hard_weight=1.0)
    rows = Batches(examples, seed=config.seed, batch_size=8, pad_id=0).global_batch(0, 0)
    model = new_student(config, DISEASES).model.eval()
    total = 0.0
    with torch.no_grad():
        for shard, row in rows:
            ids = torch.from_numpy(examples[shard].ids(row).astype(np.int64))[None]
            z, y = model(ids).logits[0].double().numpy(), examples[shard].hard[row]
            total += float((np.logaddexp(0, z) - y * z).mean())
    assert losses(config)[0] == pytest.approx(total / 8, abs=1e-5)


def test_the_job_counts_what_was_lost_and_predicts_as_training_scored(tmp_path, base):
    config = make_config(tmp_path, base, max_length=16, epochs=1)
    make_cohort(config.run.artifacts_root, VISITS)
    stream = io.StringIO()
    train_student.run(config, Console(stream))
    predict_splits(Run(config), Console(stream), ["held_out"])
    lost = "37 of 75 visits exceeded student.max_length=16 and lost text from their end"
    assert lost in stream.getvalue()
    cohort = Cohort.open(config.run.artifacts_root)
    shard = cohort.select("held_out")[0]
    model = load_student(fetched_folder(f"{config.run.folder}/student")).eval()
    tokenizer = AutoTokenizer.from_pretrained(f"{config.run.folder}/student")
    texts = cohort.read(shard, ["input"])["input"].to_pylist()
    with torch.no_grad():
        wanted = [
            model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt")).logits[0] for text in texts
        ]
    found = Stage(config.run.artifacts_root, PREDICTIONS.name, {}).read(shard.index, ["logits"])["logits"].to_pylist()
    assert np.allclose(found, torch.stack(wanted), atol=1e-5)


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
    found = losses(prepared(tmp_path / "run", str(folder), max_length=64, embedding_weight=0.5, dropout=None))
    assert len(found) == 3 and all(math.isfinite(loss) for loss in found)
