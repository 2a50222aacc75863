"""What the chaos benchmark runs: the whole pipeline on a tiny cohort, slowed down so that work is always under way.

Embedding and training write into a ledger what starts and ends. Everything else is the product (__main__.py).
"""

import json
import os
import time
from pathlib import Path
from typing import Any

SHARD_ROWS = 4
BATCH = 8  # visits per optimizer step
CHECKPOINT_STEPS = 10
SHARD_S = 2.0  # what embedding a shard takes at least
STEP_S = 0.15  # what an optimizer step takes at least
LEDGER = "ledger.jsonl"


class Ledger:
    """Lines of all processes of a run in one file. One call writes a line: a kill leaves it whole or not there."""

    def __init__(self, results: str) -> None:
        import ray

        self.path = Path(results) / LEDGER
        self.who = {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}

    def write(self, what: str, **more: Any) -> None:
        """Append a line: now, this process, its node, and what it did."""
        line = json.dumps({"time": time.time(), "what": what, **self.who, **more}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)


class SlowEmbedWorker:
    """EmbedWorker, slower; the ledger gets which shard it starts and has finished."""

    def __init__(self, run: Any) -> None:
        from ckd.teacher.embed import EmbedWorker

        self.worker, self.ledger = EmbedWorker(run), Ledger(run.config.run.results)

    def __call__(self, shard: Any) -> dict[str, Any]:
        self.ledger.write("shard_begun", shard=shard.index)
        time.sleep(SHARD_S)
        row = self.worker(shard)
        self.ledger.write("shard_done", shard=shard.index)
        return row


def slow_rank(payload: dict[str, Any], *, world: int, rank: int, preempted: Any, report: Any) -> bool:
    """jobs.train_student.rank_main, slower, and interruptible after every step.

    The ledger gets the visits of its micro-batches and rank 0's reports.
    """
    from ckd.errors import CkdError
    from ckd.student import batches
    from ckd.student.train import train

    run = payload["run"]
    ledger = Ledger(run.config.run.results)
    ledger.write("rank_begun", rank=rank, world=world)
    batches.Batches = recording(ledger, batches.Batches)

    def slowly() -> bool:
        time.sleep(STEP_S)
        return bool(preempted())

    def recorded(figures: dict[str, Any]) -> None:
        if rank == 0:
            ledger.write("report", **{**figures, "world": world})
        report(figures)

    try:
        return train(run, world=world, rank=rank, preempted=slowly, report=recorded, deepspeed=True, seconds_between=0)
    except CkdError as error:
        recorded({"refused": str(error), "kind": type(error).__name__})
        return True


def recording(ledger: Ledger, batches: type) -> type:
    """ckd.student.batches.Batches that also writes every micro-batch into the ledger."""

    class Recording(batches):
        def micro_rows(self, epoch: int, step: int, slot: int) -> list[Any]:
            found: list[Any] = super().micro_rows(epoch, step, slot)
            visits = [self.examples[shard].visit_ids[row] for shard, row in found]
            place = {"slot": slot, "rank": self.ranks.rank, "world": self.ranks.world}
            ledger.write("batch", batch=epoch * self.steps + step, visits=visits, **place)
            return found

    return Recording


def make_inputs(folder: Path, train_shards: int, other_shards: int) -> None:
    """Write rows of all splits, a tiny teacher and a tiny student into `folder`."""
    from benchmarks.pipeline.visits import make_teacher_base
    from ckd.student.tiny import SMALLEST, make_student
    from testbed.rows import rows, write_jsonl

    train, held_out = train_shards * SHARD_ROWS, other_shards * SHARD_ROWS
    found = [*rows(0, train, split="train"), *rows(train, train + held_out, split="tuning")]
    found += rows(train + held_out, train + 2 * held_out, split="held_out")
    write_jsonl(folder / "visits.json", found)
    texts = [row["input"] for row in found]
    make_teacher_base(folder / "teacher", texts)
    make_student(str(folder / "student"), texts, 0, SMALLEST)


def words(inputs: Path, results: Path, epochs: int) -> list[str]:
    """The settings of a run on a cluster; `inputs` and `results` are below one shared folder."""
    run = ["run.name=chaos", f"run.results={results}", f"run.shared_mounts=[{inputs}, {results}]"]
    data = [f"data.train={inputs}/visits.json", f"data.shard_rows={SHARD_ROWS}"]
    teacher = [f"teacher.base_model={inputs}/teacher/base", f"teacher.adapter={inputs}/teacher/adapter"]
    teacher += ["teacher.dtype=float32", "teacher.workers=2..3", "head.folds=2", "head.epochs=3"]
    student = [f"student.base_model={inputs}/student", "student.max_length=32", f"student.batch_size={BATCH}"]
    student += [f"student.checkpoint_steps={CHECKPOINT_STEPS}", "student.learning_rate=1e-3", "student.workers=1..2"]
    student += [f"student.epochs={epochs}", f"student.patience={epochs}"]
    return [*run, *data, *teacher, *student, "student.dropout=0.0"]  # masks would depend on the number of workers
