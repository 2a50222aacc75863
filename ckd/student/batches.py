"""Micro-batches: the padded arrays that one rank feeds to one forward pass."""

import numpy as np

from ckd.batching import pad
from ckd.student.examples import LEARNED, Examples
from ckd.student.order import WINDOW, Order, Row, deal, steps_per_epoch
from ckd.student.ranks import ALONE, Ranks

MicroBatch = dict[str, np.ndarray]  # input_ids and attention_mask int64 [R, T], and the LEARNED arrays float32 [R, …]


class Batches:
    """The global batches of every epoch, whatever the number of ranks, and this rank's micro-batches of them."""

    def __init__(
        self,
        examples: Examples,
        *,
        seed: int,
        batch_size: int,
        pad_id: int,
        ranks: Ranks = ALONE,
        accumulation: int = 1,
        window: int = WINDOW,
    ) -> None:
        self.examples, self.seed, self.batch_size, self.pad_id, self.window = examples, seed, batch_size, pad_id, window
        self.ranks, self.accumulation = ranks, accumulation
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
        """The visits of this rank's micro-batch `slot`; empty when a short global batch has none left for it."""
        if self._dealt[:2] != (epoch, step):
            batch = self.global_batch(epoch, step)
            lengths = [self.examples[shard].length(row) for shard, row in batch]
            mine = deal(lengths, self.ranks.world, self.accumulation)[self.ranks.rank]
            self._dealt = (epoch, step, [[batch[i] for i in micro] for micro in mine])
        return self._dealt[2][slot]

    def micro_batch(self, epoch: int, step: int, slot: int) -> MicroBatch:
        """This rank's micro-batch `slot`, padded. An empty one has a visit of weight 0: every rank takes every step."""
        mine = self.micro_rows(epoch, step, slot)
        found = collate(self.examples, mine or self.global_batch(epoch, step)[:1], self.pad_id)
        return found if mine else {**found, "weight": 0 * found["weight"]}


def collate(examples: Examples, chosen: list[Row], pad_id: int) -> MicroBatch:
    """Put some visits together, padded on the right to the longest of them."""
    visits = [(examples[shard], row) for shard, row in chosen]
    ids, mask = pad([shard.ids(row) for shard, row in visits], pad_id)
    learned = {name: np.array([getattr(shard, name)[row] for shard, row in visits], np.float32) for name in LEARNED}
    return {"input_ids": ids, "attention_mask": mask, **learned}
