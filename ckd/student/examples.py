"""Training examples: tokens, true labels and soft labels of a shard joined by visit_id, a few shards in memory at a time. Which rows form a
batch belongs to order, their tensors to batches."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from ckd.cohort import Cohort
from ckd.errors import ArtifactError
from ckd.labels import NUM_LABELS
from ckd.store import Fields, Stage
from ckd.student.mapped import Arrays, MappedArrays
from ckd.student.order import WINDOW
from ckd.student.tokens import STAGE as TOKENS
from ckd.visits import Shard

if TYPE_CHECKING:
    import pyarrow as pa

Flat = np.ndarray


@dataclass(frozen=True)
class ShardExamples:
    """One shard, R visits, L=25 labels. Unlabeled visits have hard_weight 0 and zeros in `hard`."""

    visit_ids: list[str]
    tokens: Flat  # int32, all visits' ids one after the other
    offsets: Flat  # int64 [R+1]
    hard: Flat  # float32 [R, L]
    soft_logits: Flat  # float32 [R, L]; zeros where soft labels have no weight
    hard_weight: float

    def ids(self, row: int) -> Flat:
        """The token ids of one visit."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def length(self, row: int) -> int:
        """The number of tokens of one visit."""
        return int(self.offsets[row + 1] - self.offsets[row])

    def arrays(self) -> Arrays:
        """All that is here as arrays, for a file."""
        return {f.name: np.asarray(value) for f in fields(self) if (value := getattr(self, f.name)) is not None}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The same from what `arrays` gave."""
        return cls(**{**arrays, "visit_ids": arrays["visit_ids"].tolist(), "hard_weight": float(arrays["hard_weight"])})


class Examples:
    """The joined rows of some shards, read when needed; at most 2 × WINDOW shards stay in memory. With `mapped` a machine joins each shard once,
    whatever the number of its ranks and of epochs, and they share its memory."""

    def __init__(
        self, root: str, shards: Sequence[Shard], token_fields: Fields, *, hard_weight: float, soft: bool, mapped: MappedArrays | None = None
    ) -> None:
        self.cohort = Cohort.open(root)
        self.shards = list(shards)
        self.tokens = Stage(root, TOKENS, token_fields)
        self.soft = Stage(root, "soft_labels", {}) if soft else None
        self.hard_weight, self.mapped = hard_weight, mapped
        self._read: OrderedDict[int, ShardExamples] = OrderedDict()

    @property
    def sizes(self) -> list[int]:
        """Visits per shard."""
        return [shard.rows for shard in self.shards]

    def __getitem__(self, position: int) -> ShardExamples:
        """The shard at `position` of the list. Raises ArtifactError when a part is missing or holds other visits."""
        if position not in self._read:
            self._read[position] = self._open(self.shards[position])
            if len(self._read) > 2 * WINDOW:
                self._read.popitem(last=False)
        self._read.move_to_end(position)
        return self._read[position]

    def _open(self, shard: Shard) -> ShardExamples:
        if self.mapped is None:
            return self._join(shard)
        return ShardExamples.from_arrays(self.mapped.get(f"{shard.index:05d}", lambda: self._join(shard).arrays()))

    def _join(self, shard: Shard) -> ShardExamples:
        if not self.tokens.is_done(shard.index, rows=shard.rows, input_hash=shard.text_hash):
            raise ArtifactError(f"{self.tokens.path(shard.index)}: missing; run 'ckd train-student' to make it")
        visits = self.cohort.read(shard, ["visit_id", "labels"])
        ids = visits["visit_id"].to_pylist()
        table = self.tokens.read(shard.index, ["visit_id", "input_ids"])
        tokens = table.take(align(ids, table["visit_id"].to_pylist(), self.tokens.path(shard.index)))["input_ids"].combine_chunks()
        soft = np.zeros((shard.rows, NUM_LABELS), np.float32)
        if self.soft is not None:
            table = self.soft.read(shard.index, ["visit_id", "logits"])
            soft = matrix(table.take(align(ids, table["visit_id"].to_pylist(), self.soft.path(shard.index)))["logits"])
        return ShardExamples(
            visit_ids=ids,
            tokens=tokens.flatten().to_numpy(zero_copy_only=False),
            offsets=np.concatenate([[0], np.cumsum(tokens.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)]),
            hard=matrix(visits["labels"]) if shard.labeled else np.zeros((shard.rows, NUM_LABELS), np.float32),
            soft_logits=soft,
            hard_weight=self.hard_weight if shard.labeled else 0.0,
        )


def align(wanted: list[str], found: list[str], where: str) -> list[int]:
    """For each wanted visit_id its place in `found`. Raises ArtifactError unless both hold the same ids, each once."""
    if wanted == found:
        return list(range(len(wanted)))
    place = {visit_id: i for i, visit_id in enumerate(found)}
    if len(place) != len(found) or place.keys() != set(wanted) or len(wanted) != len(found):
        raise ArtifactError(f"{where}: holds other visit_ids than the visits shard; delete it and run the stage that makes it again")
    return [place[visit_id] for visit_id in wanted]


def matrix(column: "pa.ChunkedArray") -> Flat:
    """A column of 25-element lists as float32 [rows, 25]."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(-1, NUM_LABELS), dtype=np.float32)
