"""Stage `tokens`: the student's token ids of each visit's `input`, one part per visits shard. The instruction is the same for every visit
and is left out; joining with labels belongs to examples."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.store.artifacts import Fields, Stage
from ckd.store.models import local_folder, revision
from ckd.student.windows import LongText, cut
from ckd.visits.cohort import Cohort
from ckd.visits.columns import flat, lengths
from ckd.visits.visit import Shard

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "tokens"


class TokenWorker:
    """Tokenises shards: `worker(shard)` commits one part as `tokenize` makes it. Safe to run twice.

    Raises ConfigError when student.max_length exceeds the positions that the base model knows.
    """

    def __init__(self, config: Config, fields: Fields) -> None:
        root, base_model, self.max_length = (
            config.run.artifacts_root,
            config.student.base_model,
            config.student.max_length,
        )
        self.long_text = config.student.long_text
        self.tokenizer = load_tokenizer(base_model)
        known = min(self.tokenizer.model_max_length, _positions(base_model))
        if self.max_length > known:
            raise ConfigError(
                f"student.max_length={self.max_length}: {base_model} knows {known} positions; set student.max_length to at most that"
            )
        self.cohort = Cohort.open(root)
        self.stage = Stage(root, STAGE, fields)

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Returns the figures of one shard: index, rows, seconds, tokens, truncated."""
        started = time.monotonic()
        table = tokenize(
            self.tokenizer, self.cohort.read(shard, ["visit_id", "input"]), self.max_length, self.long_text
        )
        self.stage.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)
        tokens = sum(map(len, table["input_ids"].to_pylist()))
        truncated = sum(table["truncated"].to_pylist())
        return {
            "index": shard.index,
            "rows": shard.rows,
            "seconds": time.monotonic() - started,
            "tokens": tokens,
            "truncated": truncated,
        }


def load_tokenizer(base_model: str) -> Any:
    """The tokenizer of student.base_model."""
    from transformers import AutoTokenizer

    folder = local_folder("student.base_model", base_model)
    return AutoTokenizer.from_pretrained(folder, revision=revision("student.base_model", folder))


def encode(
    tokenizer: Any, texts: list[str], max_length: int, long_text: LongText = "head"
) -> tuple[list[list[list[int]]], list[bool]]:
    """Per text its token id sequences, each with the special tokens and at most `max_length` long, and whether text was lost (see windows).

    One sequence per text, but with "windows" one or more.
    """
    ids = tokenizer(texts, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    pieces, lost = [[row] for row in ids], [False] * len(ids)
    # Only a visit that fills max_length can have lost anything: encode those again in full length.
    full = [i for i, row in enumerate(ids) if len(row) == max_length]
    whole = (
        tokenizer([texts[i] for i in full], truncation=False, verbose=False, return_attention_mask=False)["input_ids"]
        if full
        else []
    )
    before, after = _special(tokenizer) if full else ([], [])
    room = max_length - len(before) - len(after)
    for i, row in zip(full, whole, strict=True):
        if len(row) > max_length:
            content, lost[i] = cut(row[len(before) : len(row) - len(after)], room, long_text)
            pieces[i] = [[*before, *piece, *after] for piece in content]
    return pieces, lost


def tokenize(tokenizer: Any, visits: "pa.Table", max_length: int, long_text: LongText = "head") -> "pa.Table":
    """visit_id, input_ids list<int32>, truncated bool; with "windows" also window_lengths list<int32>: input_ids then hold one after the other."""
    import pyarrow as pa

    pieces, lost = encode(tokenizer, visits["input"].to_pylist(), max_length, long_text)
    columns = {
        "visit_id": visits["visit_id"],
        "input_ids": pa.array([[token for piece in row for token in piece] for row in pieces], pa.list_(pa.int32())),
        "truncated": pa.array(lost, pa.bool_()),
    }
    if long_text == "windows":
        columns["window_lengths"] = pa.array([[len(piece) for piece in row] for row in pieces], pa.list_(pa.int32()))
    return pa.table(columns)


def sequences(table: "pa.Table") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `tokenize` made, flat: all token ids int32, where each sequence begins and the last ends int64 [W+1], sequences per visit int64 [R]."""
    ids = table["input_ids"]
    windows = table["window_lengths"] if "window_lengths" in table.column_names else None
    sizes = lengths(ids) if windows is None else flat(windows)
    counts = np.ones(len(ids), np.int64) if windows is None else lengths(windows).astype(np.int64)
    return flat(ids), np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), counts


def stored_columns(long_text: LongText) -> list[str]:
    """The columns of stage `tokens` that `sequences` reads, and visit_id."""
    return ["visit_id", "input_ids", *(["window_lengths"] if long_text == "windows" else [])]


def _special(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    whole, bare = (
        tokenizer("a", add_special_tokens=special, return_attention_mask=False)["input_ids"]
        for special in (True, False)
    )
    place = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:place], whole[place + len(bare) :]


def _positions(base_model: str) -> int:
    from transformers import AutoConfig

    folder = local_folder("student.base_model", base_model)
    settings = AutoConfig.from_pretrained(folder, revision=revision("student.base_model", folder))
    return int(getattr(settings, "max_position_embeddings", None) or 1 << 30)
