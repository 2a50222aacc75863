"""The two loops that the training benchmark compares: the public code's, written anew and plain, and the project's."""

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
from ckd.student.order import Order, deal, steps_per_epoch
from ckd.student.train import train
from ckd.visits.labels import DISEASES

BATCH = 8  # the public code's
ACCUMULATION = 4  # micro-batches of two visits: with a batch of 8, what deals by length
Enough = Callable[[int], bool]  # called with each step's number; true stops the loop early


def make_config(folder: Path, base: str, seed: int = 0, gpus: float = 0, rows: int = 4096, **student: Any) -> Config:
    """A run below `folder` with the public code's batch size."""
    settings = {"base_model": base, "batch_size": BATCH, "gpus_per_worker": gpus, "checkpoint_steps": 1 << 30}
    run = {"artifacts": str(folder / "artifacts"), "results": str(folder / "results")}
    sections = {"run": run, "data": {"shard_rows": rows}, "student": settings | student}
    return Config.model_validate({**sections, "seed": seed})


def public(config: Config, made: Made, out: Path, device: str, width: int, enough: Enough) -> None:
    """Everything padded to `width`, float32, batches of BATCH, AdamW; the weights are written to `out` at the end.

    The project's schedule of the learning rate, its first weights and its batches: the loops are compared, not these.
    Visits come as token ids: the public code would tokenise them here, every epoch.
    """
    s = config.student
    model = new_student(config, DISEASES).model.to(device).train()
    rows = _padded(made, width)
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


def _padded(made: Made, width: int) -> TensorDataset:
    """Rows of ids, mask, true labels and soft labels."""
    ids = torch.zeros(len(made.ids), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, visit in enumerate(made.ids):
        ids[row, : len(visit)], mask[row, : len(visit)] = torch.from_numpy(visit), 1
    return TensorDataset(ids, mask, torch.from_numpy(made.hard).float(), torch.from_numpy(made.soft_logits).sigmoid())


def global_batches(config: Config, visits: int, epoch: int) -> Iterator[list[int]]:
    """The visits of each of the project's global batches of an epoch, for a cohort that write_cohort wrote."""
    rows = config.data.shard_rows
    order = Order([min(rows, visits - start) for start in range(0, visits, rows)], seed=config.seed, epoch=epoch)
    for start in range(0, visits, BATCH):
        yield [shard * rows + row for shard, row in order.rows(start, start + BATCH)]


def project(config: Config, enough: Enough, seconds_between: float = 0.0, deepspeed: bool = False) -> None:
    """`ckd train-student` without its command: parts in, checkpoint out. `enough` is called every `seconds_between`."""
    step = 0

    def report(figures: dict[str, Any]) -> None:
        nonlocal step
        step = figures.get("step", step)

    pace = {"deepspeed": deepspeed, "seconds_between": seconds_between}
    train(Run(config), world=1, rank=0, preempted=lambda: enough(step), report=report, **pace)


def useful_share(made: Made, width: int, batch: int = BATCH, accumulation: int = ACCUMULATION) -> tuple[float, float]:
    """The share of computed tokens that are no padding: padded to `width`, and dealt by length in batches."""
    sizes = [len(ids) for ids in made.ids]
    dealt = 0
    for start in range(0, len(sizes), batch):
        part = sizes[start : start + batch]
        dealt += sum(max(part[i] for i in slot) * len(slot) for slot in deal(part, 1, accumulation)[0] if slot)
    return sum(sizes) / (width * len(sizes)), sum(sizes) / dealt


class Steps:
    """CPU seconds of this process (all threads): of the steps after the first, and of everything since it was made."""

    def __init__(self) -> None:
        self.started, self.marks = time.process_time(), [(0, 0.0)]

    def __call__(self, step: int) -> bool:
        """Called after every step; never stops."""
        self.marks.append((step, time.process_time()))
        return False

    def seconds_per_step(self) -> float:
        """Without what comes before the first step's end: loading, and whatever is done once."""
        (first, started), (last, ended) = self.marks[1], self.marks[-1]
        return (ended - started) / (last - first)

    def whole(self) -> float:
        """With everything, the saving at the end too."""
        return time.process_time() - self.started
