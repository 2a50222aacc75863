"""Training examples: tokens, true labels and soft labels of a shard joined by visit_id, a few shards in memory at a time. Which rows form a
batch belongs to order, their tensors to batches."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from ckd.errors import ArtifactError
from ckd.store.artifacts import Fields, Stage
from ckd.student.mapped import Arrays, MappedArrays
from ckd.student.order import WINDOW
from ckd.student.tokens import TOKENS, ragged
from ckd.visits.cohort import Cohort
from ckd.visits.columns import joined, matrix
from ckd.visits.labels import NUM_LABELS
from ckd.visits.splits import of_adapter
from ckd.visits.visit import Shard

if TYPE_CHECKING:
    import pyarrow as pa

Flat = np.ndarray
SOFT_LABELS, EMBEDDINGS = "soft_labels", "embeddings"  # the teacher's stages, known by name alone


@dataclass(frozen=True)
class ShardExamples:
    """One shard, R visits, L=25 labels. Unlabeled visits have hard_weight 0 and zeros in `hard`."""

    visit_ids: list[str]
    tokens: Flat  # int32, all visits' ids one after the other
    offsets: Flat  # int64 [R+1], where each visit's ids begin
    hard: Flat  # float32 [R, L]
    soft_logits: Flat  # float32 [R, L]; zeros where soft labels have no weight
    hard_weight: Flat  # float32 [R]; 1 where the soft labels must not be used
    weight: Flat  # float32 [R]; 0 for a visit from which there is nothing to learn
    embeddings: Flat | None = (
        None  # [R, E], the teacher's, as stored, zeros where not to be matched; None where no visit's is
    )

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
        return cls(**{**arrays, "visit_ids": arrays["visit_ids"].tolist()})


class Examples:
    """The joined rows of some shards, read when needed; at most 2 × WINDOW shards stay in memory. With `mapped` a machine joins each shard once,
    whatever the number of its ranks and of epochs, and they share its memory.

    The subjects of `adapter_share` are the adapter's: it knows their labels by heart, so they teach by their true labels alone (no
    soft label, no embedding), and their unlabeled visits not at all.
    """

    def __init__(
        self,
        root: str,
        shards: Sequence[Shard],
        token_fields: Fields,
        *,
        hard_weight: float,
        soft: bool,
        embeddings: bool = False,
        adapter_share: float = 0,
        mapped: MappedArrays | None = None,
    ) -> None:
        self.cohort = Cohort.open(root)
        self.shards = list(shards)
        self.tokens = Stage(root, TOKENS.name, token_fields)
        self.soft = Stage(root, SOFT_LABELS, {}) if soft else None
        self.embeddings = Stage(root, EMBEDDINGS, {}) if embeddings else None
        self.hard_weight, self.adapter_share, self.mapped = hard_weight, adapter_share, mapped
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
        visits = self.cohort.read(shard, ["visit_id", "labels", "group"])
        spent = of_adapter(visits["group"].to_pylist(), self.adapter_share)
        ids = visits["visit_id"]
        table = self.tokens.read(shard.index, ["visit_id", "input_ids"])
        tokens, offsets = ragged(joined(table, ids, self.tokens.path(shard.index))["input_ids"])
        soft = np.zeros((shard.rows, NUM_LABELS), np.float32)
        if self.soft is not None:
            table = self.soft.read(shard.index, ["visit_id", "logits"])
            soft = matrix(joined(table, ids, self.soft.path(shard.index))["logits"])
        return ShardExamples(
            visit_ids=ids.to_pylist(),
            tokens=tokens,
            offsets=offsets,
            hard=matrix(visits["labels"]) if shard.labeled else np.zeros((shard.rows, NUM_LABELS), np.float32),
            soft_logits=soft,
            hard_weight=np.where(spent, 1, self.hard_weight).astype(np.float32)
            if shard.labeled
            else np.zeros(shard.rows, np.float32),
            weight=np.ones(shard.rows, np.float32) if shard.labeled else (~spent).astype(np.float32),
            # The adapter put what it knows of its subjects into their embeddings too: they are not matched.
            embeddings=None
            if self.embeddings is None
            else np.where(spent[:, None], np.zeros(1, np.float16), self.embedded(shard, ids)),
        )

    def embedded(self, shard: Shard, ids: "pa.ChunkedArray | None" = None) -> Flat:
        """The teacher's embeddings [R, E] of a shard, in the type and, without `ids`, the order they are stored in."""
        stage = self.embeddings
        if stage is None:
            raise ValueError("these examples have no embeddings")
        table = stage.read(shard.index, ["visit_id", "embedding"])
        if ids is not None:
            table = joined(table, ids, stage.path(shard.index))
        return matrix(table["embedding"], None)
