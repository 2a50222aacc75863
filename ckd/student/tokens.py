"""Stage `tokens`: the student's token ids of each visit's `input`; the instruction, the same for all, is left out."""

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.run import Run
from ckd.stage import Step
from ckd.store.artifacts import Fields
from ckd.store.models import known_positions, model_fields
from ckd.store.pretrained import Source, load_settings, load_tokenizer
from ckd.visits.audit import token_ids
from ckd.visits.cohort import Cohort
from ckd.visits.columns import flat, lengths
from ckd.visits.visit import Shard

if TYPE_CHECKING:
    import pyarrow as pa


MOST_UNKNOWN = 0.9  # share of a shard's text: more, and the tokenizer is not that of these texts


class TokenWorker:
    """Tokenises shards: `worker(shard)` commits one part as `tokenize` makes it. Safe to run twice.

    Raises ConfigError when student.max_length exceeds the positions that the base model knows, or when its tokenizer
    does not know the words of a shard.
    """

    def __init__(self, run: Run) -> None:
        student = run.config.student
        self.max_length, self.name = student.max_length, student.base_model
        source = Source.find("student.base_model", student.base_model)
        self.tokenizer = load_tokenizer(source)
        known = getattr(load_settings(source), "max_position_embeddings", None) or 1 << 30
        _require_positions(run.config, min(self.tokenizer.model_max_length, int(known)))
        self.cohort, self.stage = run.cohort, TOKENS.stage(run)

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Commit part `shard.index`; returns index, rows, seconds, tokens, truncated, unknown (tokens)."""
        started = time.monotonic()
        visits = self.cohort.read(shard, ["visit_id", "input"])
        table = tokenize(self.tokenizer, visits, self.max_length)
        tokens, truncated = int(lengths(table["input_ids"]).sum()), sum(table["truncated"].to_pylist())
        unknown = self._unknown(shard, table["input_ids"], tokens)
        self.stage.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)
        done = {"index": shard.index, "rows": shard.rows, "seconds": time.monotonic() - started}
        return {**done, "tokens": tokens, "truncated": truncated, "unknown": unknown}

    def _unknown(self, shard: Shard, ids: "pa.ChunkedArray", tokens: int) -> int:
        """How many tokens of a shard the tokenizer does not know. Raises ConfigError when it is most of the text."""
        unknown = int((flat(ids) == self.tokenizer.unk_token_id).sum())
        of_text = tokens - len(ids) * self.tokenizer.num_special_tokens_to_add()
        if unknown > MOST_UNKNOWN * of_text:
            raise ConfigError(
                f"student.base_model={self.name}: its tokenizer does not know {unknown / of_text:.0%} of the text of "
                f"shard {shard.index}; use the tokenizer of these weights, and a model of the visits' language"
            )
        return unknown


def token_fields(config: Config) -> Fields:
    """The fingerprint of stage `tokens`.

    Raises ConfigError when student.base_model is neither a folder nor a Hub id, or is too short for student.max_length.
    """
    name = config.student.base_model
    _require_positions(config, known_positions(name))
    tokenizer = "student.base_model tokenizer"
    found = {tokenizer: model_fields("student.base_model", name)[tokenizer]}
    return {**found, "student.max_length": config.student.max_length}


def _shards(config: Config, cohort: Cohort) -> list[Shard]:
    unlabeled = cohort.select("train", labeled=False) if config.student.use_unlabeled else []
    return [*cohort.select(), *unlabeled]


TOKENS = Step(
    name="tokens",
    command="ckd train-student",
    label="tokens",
    title="Tokens for the student",
    fingerprint=lambda run: token_fields(run.config),
    shards=_shards,
    worker=TokenWorker,
    proves={"input_ids": token_ids},
    libraries=lambda _: ["transformers", "tokenizers"],
)


def tokenize(tokenizer: Any, visits: "pa.Table", max_length: int) -> "pa.Table":
    """visit_id, input_ids list<int32> with the special tokens, and truncated bool: whether a text lost its end."""
    import pyarrow as pa

    texts = visits["input"].to_pylist()
    tokenizer.truncation_side = "right"  # whatever the tokenizer's own setting is
    ids = tokenizer(texts, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    # Only a visit that fills max_length can have lost anything: count those again in full length.
    full = [i for i, row in enumerate(ids) if len(row) == max_length]
    whole = tokenizer([texts[i] for i in full], verbose=False, return_attention_mask=False)["input_ids"] if full else []
    lost = {i for i, row in zip(full, whole, strict=True) if len(row) > max_length}
    return pa.table(
        {
            "visit_id": visits["visit_id"],
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "truncated": pa.array([i in lost for i in range(len(ids))], pa.bool_()),
        }
    )


def ragged(column: "pa.ChunkedArray") -> tuple[np.ndarray, np.ndarray]:
    """All token ids of a column input_ids, int32, and where each visit's start and the last one's end, int64 [R+1]."""
    return flat(column), np.concatenate([[0], np.cumsum(lengths(column), dtype=np.int64)])


def token_rows(column: "pa.ChunkedArray") -> list[np.ndarray]:
    """The token ids of each visit, int32."""
    ids, offsets = ragged(column)
    return [ids[start:stop] for start, stop in pairwise(offsets)]


def _require_positions(config: Config, known: int | None) -> None:
    wanted, name = config.student.max_length, config.student.base_model
    if known is not None and wanted > known:
        raise ConfigError(
            f"student.max_length={wanted}: {name} knows {known} positions; set student.max_length to at most that"
        )
