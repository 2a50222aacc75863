"""A made-up cohort for the student's training benchmark: token ids of the measured lengths, whose signs tell of their labels; no text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ckd.config import Config
from ckd.store.artifacts import Stage
from ckd.student.tokens import TOKENS, token_fields
from ckd.visits import cohort as cohorts
from ckd.visits.cohort import Cohort
from ckd.visits.labels import NUM_LABELS
from ckd.visits.visit import Visit

LONGEST = 512
# BERT WordPiece tokens of MIMIC-III visits: half have 440 or more, 36 % exceed 512 and are cut there. The quantile at 0 was not measured: it is the
# one with which everything padded to 512 is 74 % useful tokens, which was.
KNOTS = ((0.0, 72), (0.5, 440), (0.64, 512), (1.0, 800))
_FIRST = 5  # after the special tokens come one sign per label, then words
SIGNS = 0.03  # of a visit's tokens, for each label whose cause is there
LIKELY = (0.8, 0.1)  # how often a label is true with its cause, and without


@dataclass(frozen=True)
class Geometry:
    """A BERT's size."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int


SMALL = Geometry(layers=4, hidden=256, heads=4, intermediate=1024, vocabulary=4000)
SMALLER = Geometry(layers=2, hidden=64, heads=2, intermediate=128, vocabulary=1000)
BERT_BASE = Geometry(layers=12, hidden=768, heads=12, intermediate=3072, vocabulary=30_522)
TINY = Geometry(layers=1, hidden=16, heads=2, intermediate=32, vocabulary=200)


@dataclass(frozen=True)
class Made:
    """N visits, L=25 labels."""

    ids: list[np.ndarray]  # int32, each [tokens of that visit]
    hard: np.ndarray  # bool [N, L]
    soft_logits: np.ndarray  # float32 [N, L]


def lengths(count: int, rng: np.random.Generator, shorter: int = 1) -> np.ndarray:
    """int [count] in random order: tokens per visit at evenly spaced quantiles, special tokens included, cut at 512; `shorter` divides all."""
    quantiles = (rng.permutation(count) + 0.5) / count
    whole = np.interp(quantiles, [q for q, _ in KNOTS], [n for _, n in KNOTS]).round().astype(int)
    return np.minimum(whole, LONGEST) // shorter


def make_visits(
    count: int,
    vocabulary: int,
    seed: int,
    *,
    length: int = 0,
    shorter: int = 1,
) -> Made:
    """Random visits; a quarter of the causes are there, each shows its sign here and there and makes its label likely. `length`: all alike."""
    rng = np.random.default_rng(seed)
    sizes = np.full(count, length // shorter) if length else lengths(count, rng, shorter)
    cause = rng.random((count, NUM_LABELS)) < 0.25
    hard = rng.random(cause.shape) < np.where(cause, *LIKELY)
    soft = np.where(cause, 1.4, -2.2) + rng.normal(0, 0.3, cause.shape)
    ids = []
    for row, size in enumerate(sizes):
        visit = rng.integers(_FIRST + NUM_LABELS, vocabulary, size, dtype=np.int32)
        present = np.flatnonzero(cause[row])
        shown = rng.random(size) < SIGNS * len(present)
        visit[shown] = _FIRST + rng.choice(present, shown.sum()) if len(present) else 0
        visit[0], visit[-1] = 2, 3
        ids.append(visit)
    return Made(ids, hard, soft.astype(np.float32))


def write_base(folder: Path, geometry: Geometry) -> str:
    """A random BERT without dropout (so that ways differ in nothing but their work) and a tokenizer that nobody asks."""
    import torch

    known = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=known, pad_token="[PAD]", unk_token="[UNK]", model_max_length=LONGEST
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=geometry.vocabulary,
        hidden_size=geometry.hidden,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        intermediate_size=geometry.intermediate,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    BertModel(settings).save_pretrained(folder)
    return str(folder)


def write_cohort(config: Config, made: Made) -> Cohort:
    """Commit the visits as labelled train rows, with their tokens and soft labels, as the stages before the student leave them."""
    rows = (
        Visit(f"v{n}", "i", "t", tuple(flags), f"s{n}", "train", None, source="train", line=n + 1)
        for n, flags in enumerate(made.hard.tolist())
    )
    root = config.run.artifacts_root
    cohort = cohorts.commit(root, rows, fields={}, shard_rows=config.data.shard_rows, facts={})
    tokens, soft = Stage(root, TOKENS.name, token_fields(config)), Stage(root, "soft_labels", {"head": "made up"})
    start = 0
    for shard in cohort.shards:
        ids, part = cohort.read(shard, ["visit_id"])["visit_id"], slice(start, start + shard.rows)
        table = pa.table({"visit_id": ids, "input_ids": pa.array(made.ids[part], pa.list_(pa.int32()))})
        tokens.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)
        logits = pa.FixedSizeListArray.from_arrays(pa.array(made.soft_logits[part].ravel()), NUM_LABELS)
        soft.write(
            shard.index, pa.table({"visit_id": ids, "logits": logits}), rows=shard.rows, input_hash=shard.text_hash
        )
        start += shard.rows
    return cohort
