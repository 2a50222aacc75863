"""Training examples: a shard's tokens, true labels and teacher's data joined by visit_id, a few shards in memory."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from ckd.errors import ArtifactError
from ckd.store.artifacts import Fields, Stage
from ckd.student.mapped import Arrays, MappedArrays
from ckd.student.order import WINDOW
from ckd.student.tokens import TOKENS, ragged
from ckd.visits.cohort import Cohort
from ckd.visits.columns import cells, joined, matrix
from ckd.visits.splits import of_adapter
from ckd.visits.visit import Shard

if TYPE_CHECKING:
    import pyarrow as pa

Flat = np.ndarray
SOFT_LABELS, EMBEDDINGS = "soft_labels", "embeddings"  # the teacher's stages, which are known here only by name
_COLUMNS = {SOFT_LABELS: "logits", EMBEDDINGS: "embedding"}  # what the student learns from


@dataclass(frozen=True)
class ShardExamples:
    """One shard, R visits, L labels. An array of the teacher has width 0 where it is not learned from."""

    visit_ids: list[str]
    tokens: Flat  # int32, all visits' ids one after the other
    offsets: Flat  # int64 [R+1], where each visit's ids begin
    hard: Flat  # float32 [R, L], the true labels, NaN where unknown; zeros for an unlabeled visit
    hard_weight: Flat  # float32 [R], of the true labels: 0 for an unlabeled visit, 1 where soft labels must not be used
    weight: Flat  # float32 [R]; 0 for a visit from which there is nothing to learn
    soft_logits: Flat  # [R, L], as stored
    embeddings: Flat  # [R, E], as stored; zeros for a visit that is not matched

    def ids(self, row: int) -> Flat:
        """The token ids of one visit."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def length(self, row: int) -> int:
        """The number of tokens of one visit."""
        return int(self.offsets[row + 1] - self.offsets[row])

    def arrays(self) -> Arrays:
        """All that is here as arrays, for a file."""
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The inverse of `arrays`."""
        return cls(**{**arrays, "visit_ids": arrays["visit_ids"].tolist()})


LEARNED = tuple(f.name for f in fields(ShardExamples))[3:]  # what a loss may read, one row per visit


class Examples:
    """The joined rows of some shards, read when needed; at most 2 × WINDOW shards stay in memory.

    `teacher` names the stages to learn from. With `mapped` a machine joins each shard once, whatever the number of its
    ranks and of epochs, and they share its memory. The adapter was tuned on the subjects of `adapter_share` and knows
    their labels by heart, so they teach by nothing but true labels, and their unlabeled visits not at all.
    """

    def __init__(
        self,
        root: str,
        shards: Sequence[Shard],
        token_fields: Fields,
        *,
        hard_weight: float = 1.0,
        teacher: Collection[str] = (),
        adapter_share: float = 0,
        mapped: MappedArrays | None = None,
    ) -> None:
        self.cohort = Cohort.open(root)
        self.shards = list(shards)
        self.tokens = Stage(root, TOKENS.name, token_fields)
        self.teacher = {name: Stage(root, name, {}) for name in teacher}
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

    def taught(self, name: str, shard: Shard, visit_ids: "pa.ChunkedArray | None" = None) -> Flat:
        """What a stage of the teacher says of a shard's visits, [R, width], as stored; width 0 if not learned from.

        The rows are those of `visit_ids`, without them those of the part.
        """
        stage = self.teacher.get(name)
        if stage is None:
            return np.zeros((shard.rows, 0), np.float32)
        table = stage.read(shard.index, ["visit_id", _COLUMNS[name]], input_hash=shard.text_hash)
        if visit_ids is not None:
            table = joined(table, visit_ids, stage.path(shard.index))
        return matrix(table[_COLUMNS[name]], None)

    def _open(self, shard: Shard) -> ShardExamples:
        if self.mapped is None:
            return self._join(shard)
        return ShardExamples.from_arrays(self.mapped.get(f"{shard.index:05d}", lambda: self._join(shard).arrays()))

    def _join(self, shard: Shard) -> ShardExamples:
        if not self.tokens.is_done(shard.index, rows=shard.rows, input_hash=shard.text_hash):
            raise ArtifactError(f"{self.tokens.path(shard.index)}: missing; run 'ckd train-student' to make it")
        visits, labels = self.cohort.read(shard, ["visit_id", "labels", "group"]), len(self.cohort.task)
        ids, known = visits["visit_id"], of_adapter(visits["group"].to_pylist(), self.adapter_share)
        table = self.tokens.read(shard.index, ["visit_id", "input_ids"], input_hash=shard.text_hash)
        tokens, offsets = ragged(joined(table, ids, self.tokens.path(shard.index))["input_ids"])
        return ShardExamples(
            visit_ids=ids.to_pylist(),
            tokens=tokens,
            offsets=offsets,
            hard=cells(visits["labels"]) if shard.labeled else np.zeros((shard.rows, labels), np.float32),
            hard_weight=(np.where(known, 1, self.hard_weight) * shard.labeled).astype(np.float32),
            weight=(~known | shard.labeled).astype(np.float32),
            soft_logits=self.taught(SOFT_LABELS, shard, ids),
            # The adapter put what it knows of its subjects into their embeddings too.
            embeddings=np.where(known[:, None], np.zeros(1, np.float16), self.taught(EMBEDDINGS, shard, ids)),
        )
