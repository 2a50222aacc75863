"""The two loops that the student's training benchmark compares: the public code's, written anew and plain, and the project's whole training."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import DataLoader, TensorDataset
from transformers import get_linear_schedule_with_warmup

from benchmarks.student.visits import Made
from ckd.config import Config
from ckd.run import Run
from ckd.student.model import new_student
from ckd.student.order import Order, steps_per_epoch
from ckd.student.train import train

BATCH = 8  # the public code's


def public(
    config: Config, made: Made, out: Path, device: str, width: int, enough: Callable[[int], bool] = lambda _: False
) -> None:
    """Everything padded to `width`, float32, batches of BATCH, AdamW; the weights go to `out` at the end.

    The project's schedule of the learning rate, its first weights and its batches: the loops are compared, not these. Visits come as token ids: the
    public code would tokenise them here, every epoch. `enough(step)`, asked after each step, may stop early.
    """
    s = config.student
    model = new_student(config).to(device).train()
    ids = torch.zeros(len(made.ids), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, visit in enumerate(made.ids):
        ids[row, : len(visit)], mask[row, : len(visit)] = torch.from_numpy(visit), 1
    rows = TensorDataset(ids, mask, torch.from_numpy(made.hard).float(), torch.from_numpy(made.soft_logits).sigmoid())
    steps = s.epochs * steps_per_epoch(len(rows), BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, int(s.warmup_share * steps), steps)
    step = 0
    for epoch in range(s.epochs):
        for batch in DataLoader(rows, batch_sampler=global_batches(config, len(rows), epoch)):
            ids_bt, mask_bt, hard_bl, soft_bl = (tensor.to(device) for tensor in batch)
            logits_bl = model(input_ids=ids_bt, attention_mask=mask_bt).logits
            loss = s.hard_weight * bce(logits_bl, hard_bl) + (1 - s.hard_weight) * bce(logits_bl, soft_bl)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if enough(step):
                return
    torch.save(model.state_dict(), out)


def global_batches(config: Config, visits: int, epoch: int) -> Iterator[list[int]]:
    """The visits of each of the project's global batches of an epoch, for a cohort of labelled train rows that write_cohort wrote."""
    rows = config.data.shard_rows
    order = Order([min(rows, visits - start) for start in range(0, visits, rows)], seed=config.seed, epoch=epoch)
    for start in range(0, visits, BATCH):
        yield [shard * rows + row for shard, row in order.rows(start, start + BATCH)]


def project(
    config: Config,
    enough: Callable[[int], bool] = lambda _: False,
    seconds_between: float = 0.0,
    deepspeed: bool = False,
) -> None:
    """`ckd train-student` without its command: parts in, checkpoint out. `enough(step)`, asked every `seconds_between` or step, may stop early."""
    step = 0

    def hear(figures: dict[str, Any]) -> None:
        nonlocal step
        step = figures.get("step", step)

    ranks = {"world": 1, "rank": 0}
    train(
        Run(config),
        **ranks,
        preempted=lambda: enough(step),
        report=hear,
        deepspeed=deepspeed,
        seconds_between=seconds_between,
    )


class Steps:
    """CPU seconds of this process (all threads) from the end of the first optimizer step to the end of the last, and from its making to now."""

    def __init__(self) -> None:
        self.begun, self.marks = time.process_time(), [(0, 0.0)]

    def __call__(self, step: int) -> bool:
        """Told of every step; never stops."""
        self.marks.append((step, time.process_time()))
        return False

    def seconds_per_step(self) -> float:
        """Without what comes before the first step's end: loading, and whatever is done once."""
        (first, begun), (last, ended) = self.marks[1], self.marks[-1]
        return (ended - begun) / (last - first)

    def whole(self) -> float:
        """With everything, the saving at the end too."""
        return time.process_time() - self.begun
