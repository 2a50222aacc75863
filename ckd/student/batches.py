"""Micro-batches: the padded arrays that one rank feeds to one forward pass. Their order is order's business, their content examples'."""

from dataclasses import dataclass, fields

import numpy as np

from ckd.batching import pad
from ckd.student.examples import Examples
from ckd.student.order import WINDOW, Order, Row, deal, steps_per_epoch
from ckd.visits.labels import NUM_LABELS


@dataclass(frozen=True)
class MicroBatch:
    """R visits padded to T tokens, L=25 labels.

    `weight` is 0 for the dummy row of an otherwise empty micro-batch, and for a visit from which there is nothing to learn; else 1.
    """

    input_ids: np.ndarray  # int64 [R, T]
    attention_mask: np.ndarray  # int64 [R, T]
    hard: np.ndarray  # float32 [R, L]
    soft_logits: np.ndarray  # float32 [R, L]
    hard_weight: np.ndarray  # float32 [R]
    weight: np.ndarray  # float32 [R]
    embedding: np.ndarray  # float32 [R, E]; E is 0 where the student does not match the teacher's

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class Batches:
    """The global batches of every epoch, and this rank's micro-batches of them. The visits of batch i do not depend on the world."""

    def __init__(
        self,
        examples: Examples,
        *,
        seed: int,
        batch_size: int,
        pad_id: int,
        world: int = 1,
        rank: int = 0,
        accumulation: int = 1,
        window: int = WINDOW,
    ) -> None:
        self.examples, self.seed, self.batch_size, self.pad_id, self.window = examples, seed, batch_size, pad_id, window
        self.world, self.rank, self.accumulation = world, rank, accumulation
        self.steps = steps_per_epoch(sum(examples.sizes), batch_size)
        self._order: Order | None = None
        self._dealt: tuple[int, int, list[list[Row]]] = (-1, -1, [])

    def global_batch(self, epoch: int, step: int) -> list[Row]:
        """The visits of global batch `step` (0-based) of an epoch."""
        if self._order is None or self._order.key != (self.seed, epoch):
            self._order = Order(self.examples.sizes, seed=self.seed, epoch=epoch, window=self.window)
        return self._order.rows(step * self.batch_size, (step + 1) * self.batch_size)

    def visit_ids(self, epoch: int, step: int) -> list[str]:
        """The visit_ids of a global batch."""
        return [self.examples[shard].visit_ids[row] for shard, row in self.global_batch(epoch, step)]

    def micro_rows(self, epoch: int, step: int, slot: int) -> list[Row]:
        """The visits of this rank's micro-batch `slot` of a global batch; empty when a short batch has none left for it."""
        if self._dealt[:2] != (epoch, step):
            batch = self.global_batch(epoch, step)
            dealt = deal([self.examples[shard].length(row) for shard, row in batch], self.world, self.accumulation)
            self._dealt = (epoch, step, [[batch[i] for i in micro] for micro in dealt[self.rank]])
        return self._dealt[2][slot]

    def micro_batch(self, epoch: int, step: int, slot: int) -> MicroBatch:
        """This rank's micro-batch `slot` of a global batch, padded."""
        mine = self.micro_rows(epoch, step, slot)
        # Every rank must take part in every step, so an empty micro-batch carries one visit of the batch with weight 0.
        return collate(self.examples, mine or self.global_batch(epoch, step)[:1], self.pad_id, weight=float(bool(mine)))


def collate(examples: Examples, chosen: list[Row], pad_id: int, weight: float = 1.0) -> MicroBatch:
    """Pad the chosen visits on the right to the longest of them."""
    ids, mask = pad([examples[shard].ids(row) for shard, row in chosen], pad_id)
    hard, soft = np.empty((2, len(chosen), NUM_LABELS), np.float32)
    for i, (shard, row) in enumerate(chosen):
        hard[i], soft[i] = examples[shard].hard[row], examples[shard].soft_logits[row]
    hard_weight, weights = (
        np.array([getattr(examples[shard], name)[row] for shard, row in chosen], np.float32)
        for name in ("hard_weight", "weight")
    )
    found = [(examples[shard].embeddings, row) for shard, row in chosen]
    embedding = np.stack(
        [np.zeros(0, np.float32) if rows is None else rows[row].astype(np.float32) for rows, row in found]
    )
    return MicroBatch(ids, mask, hard, soft, hard_weight, weight * weights, embedding)
