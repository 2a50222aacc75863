"""A made-up cohort for the training benchmark: token ids of the measured lengths, with signs of the labels; no text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, models
from transformers import BertModel, PreTrainedTokenizerFast

from benchmarks.student.geometry import Geometry
from ckd.config import Config
from ckd.store.artifacts import Stage
from ckd.student.tokens import TOKENS, token_fields
from ckd.visits import cohort as cohorts
from ckd.visits.cohort import Cohort
from ckd.visits.columns import lists
from ckd.visits.labels import NUM_LABELS
from ckd.visits.visit import Visit

LONGEST = 512
# BERT WordPiece tokens of MIMIC-III visits: half have 440 or more, 36 % exceed 512 and are cut there. The quantile at 0
# was not measured: with it everything padded to 512 is 74 % useful tokens, which was.
KNOTS = ((0.0, 72), (0.5, 440), (0.64, 512), (1.0, 800))
SHORTER = 8  # divides the lengths where code is only tried (--tiny)
_FIRST = 5  # after the special tokens come one sign per label, then words
SIGNS = 0.03  # of a visit's tokens, for each label whose cause is there
LIKELY = (0.8, 0.1)  # how often a label is true with its cause, and without


@dataclass(frozen=True)
class Made:
    """N visits, L=25 labels."""

    ids: list[np.ndarray]  # int32, each [tokens of that visit]
    hard: np.ndarray  # bool [N, L]
    soft_logits: np.ndarray  # float32 [N, L]


def lengths(count: int, rng: np.random.Generator, shorter: int = 1) -> np.ndarray:
    """int [count] in random order: tokens per visit, special tokens included, cut at 512; `shorter` divides all."""
    quantiles = (rng.permutation(count) + 0.5) / count
    whole = np.interp(quantiles, *zip(*KNOTS, strict=True)).round().astype(int)
    return np.minimum(whole, LONGEST) // shorter


def make_visits(count: int, vocabulary: int, seed: int, *, length: int = 0, shorter: int = 1) -> Made:
    """Random visits, all of `length` tokens if it is given.

    A quarter of the causes are there; each shows its sign here and there and makes its label likely.
    """
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
    """Write a random BERT without dropout, so that ways differ only in their work, and a tokenizer, which none uses."""
    import torch

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    known = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=known, model_max_length=LONGEST, **special).save_pretrained(folder)
    torch.manual_seed(0)
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings = geometry.settings(max_position_embeddings=LONGEST, pad_token_id=0, **off)
    BertModel(settings).save_pretrained(folder)
    return str(folder)


def write_cohort(config: Config, made: Made) -> Cohort:
    """Commit the visits as labelled train rows, with their tokens and soft labels, as the stages before training do."""
    rows = (
        Visit(f"v{n}", "i", "t", tuple(flags), f"s{n}", "train", None, source="train", line=n + 1)
        for n, flags in enumerate(made.hard.tolist())
    )
    root = config.run.artifacts_root
    cohort = cohorts.commit(root, rows, fields={}, shard_rows=config.data.shard_rows, facts={})
    tokens, soft = Stage(root, TOKENS.name, token_fields(config)), Stage(root, "soft_labels", {"head": "made up"})
    start = 0
    for shard in cohort.shards:
        part = slice(start, start + shard.rows)
        ids = cohort.read(shard, ["visit_id"])["visit_id"]
        columns = {
            tokens: {"input_ids": pa.array(made.ids[part], pa.list_(pa.int32()))},
            soft: {"logits": lists(made.soft_logits[part])},
        }
        for stage, column in columns.items():
            table = pa.table({"visit_id": ids, **column})
            stage.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)
        start += shard.rows
    return cohort
