"""Job: what a run will take, before anything is paid for: tokens of a sample of the inputs, GPU-hours, cost on demand and on spot, disk. Nothing is
started and nothing is written. The formulas are ckd.estimate's.

A sample's rows are drawn with equal chances; what is said of all visits is the sample's share or mean times all rows of its input.
"""

import io
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckd.config import Config
from ckd.errors import DataError
from ckd.estimate import (
    HOUR,
    MATRIX_RATE,
    TRAINING_UTILISATION,
    Assumptions,
    spot_hours,
    spot_share,
    training_flops,
    wall_s,
)
from ckd.run import Run
from ckd.store.models import without_weights
from ckd.visits.audit import audit_stage
from ckd.visits.cohort import cohort_artifact
from ckd.visits.inputs import Sample
from ckd.visits.intake import configured_inputs
from ckd.visits.labels import DISEASES
from ckd.visits.splits import PUBLIC_SHARES
from ckd.visits.visit import Split, Visit
from jobs.arguments import amount
from jobs.console import Console

SAMPLE = 1000  # rows per input
SEED = 1


@dataclass(frozen=True)
class Sampled:
    """The drawn visits with what each stands for: all rows of its input / rows drawn of it."""

    rows: int
    visits: Sequence[Visit]
    weights: Sequence[float]
    drawn: int

    def total(self, values: Sequence[float]) -> float:
        """Sum over all visits of a value known for the drawn ones."""
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True))


@dataclass(frozen=True)
class Phase:
    """GPU-hours of one stage; `share` of a spot machine's time is lost to preemptions there."""

    name: str
    gpu_hours: float
    wall_hours: float
    share: float


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd plan`."""
    one_hour = "one GPU-hour on"
    parser.add_argument(
        "--price", type=amount, metavar="P", help=f"{one_hour} demand; without it teacher.price_per_hour", default=0.0
    )
    parser.add_argument(
        "--spot-price", type=amount, metavar="P", help=f"{one_hour} spot, in the same currency", default=0.0
    )
    parser.add_argument(
        "--visits-per-second",
        type=amount,
        default=0.0,
        metavar="R",
        help="visits/s of one worker of the teacher, as an earlier run's embed_accounting says; without it from the model's size",
    )


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Print the plan. Raises DataError without inputs, ConfigError without models."""
    price = arguments.price or config.teacher.price_per_hour
    for line in plan(config, price, arguments.spot_price, arguments.visits_per_second):
        console.say(f"plan: {line}")


def plan(config: Config, price: float, spot_price: float, rate: float) -> Iterator[str]:
    """The plan, line by line."""
    sampled = _sample(config)
    embedded = [float(v.labels is not None or config.student.use_unlabeled) for v in sampled.visits]
    training = [is_training(v, config) * known for v, known in zip(sampled.visits, embedded, strict=True)]
    visits, to_train = sampled.total(embedded), sampled.total(training)
    if not visits:
        raise DataError(
            f"none of {sampled.drawn:,} rows drawn has labels; give labelled visits, or student.use_unlabeled=true with some"
        )
    yield (
        f"{sampled.rows:,} rows; of {sampled.drawn:,} drawn {len(sampled.visits):,} can be used: about {visits:,.0f} visits for the teacher, "
        f"{to_train:,.0f} of them train the student"
    )
    teacher, geometry_lines, hidden = _teacher(config, sampled, embedded, rate)
    yield from geometry_lines
    done = _embedded_before(config)
    if done:
        yield f"{done:,} visits are embedded already and are not paid again"
    phases = [_teacher_phase(config, max(0.0, visits - done), teacher)]
    student = _Student(config, sampled)
    phases.append(student.phase(to_train, teacher))
    yield student.line
    for phase in phases:
        took = f"{_hours(phase.gpu_hours)} GPU-hours in {_hours(phase.wall_hours)} hours"
        yield f"{phase.name}: {took}; on spot {phase.share:.2%} of the time is done again"
    yield from _costs(phases, price, spot_price, teacher)
    yield from _disk(config, sampled, embedded, training, hidden, student)
    yield "nothing was started or written; a job tells its real rate as embed_accounting in events.jsonl: pass it as --visits-per-second"


def is_training(visit: Visit, config: Config) -> float:
    """The chance that a visit gets into train: 1 or 0 where its row or file decides."""
    if config.data.split == "public":
        return PUBLIC_SHARES["train"]
    split: Split = visit.split or visit.source
    return float(split == "train")


def _sample(config: Config) -> Sampled:
    inputs = configured_inputs(config.data)
    if not inputs:
        raise DataError("nothing to plan for; give data.train in the configuration or as an override")
    found: list[Sample] = [one.sample(SAMPLE, SEED) for one in inputs]
    if not any(one.visits for one in found):
        raise DataError(
            f"{inputs[0].path}: none of {sum(s.drawn for s in found)} rows drawn can be used; 'ckd validate' says why"
        )
    weights = [one.rows / one.drawn for one in found for _ in one.visits]
    return Sampled(
        sum(s.rows for s in found), [v for s in found for v in s.visits], weights, sum(s.drawn for s in found)
    )


def _teacher(
    config: Config, sampled: Sampled, embedded: Sequence[float], rate: float
) -> tuple[Assumptions, list[str], int]:
    """The assumptions with this teacher's rate, what a person is told of its tokens, the width of its embeddings."""
    from ckd.prompts import Prompter
    from ckd.teacher.decoder import outline
    from ckd.teacher.prefix import shared_prefix
    from ckd.teacher.work import forward_flops

    t = config.teacher
    with without_weights("teacher.base_model", t.base_model) as folder:
        tokenizer, geometry, hidden = outline(t, folder)
        prompts, cut = Prompter(tokenizer, t.max_length).encode(
            [v.instruction for v in sampled.visits], [v.input for v in sampled.visits]
        )
    prefix, lengths = shared_prefix(prompts), [len(ids) for ids in prompts]
    visits = sampled.total(embedded)
    tokens = sampled.total([n * known for n, known in zip(lengths, embedded, strict=True)])
    flops = sampled.total(
        [forward_flops(geometry, 1, n - prefix, prefix) * known for n, known in zip(lengths, embedded, strict=True)]
    )
    gpus = max(1.0, t.gpus_per_worker)
    base = replace(Assumptions(), shard_rows=config.data.shard_rows, given=4 if t.gpus_per_worker else 2)
    a = (
        replace(base, ceiling=rate, utilisation=1.0)
        if rate
        else replace(base, ceiling=MATRIX_RATE * gpus / (flops / visits))
    )
    lines = [
        f"teacher's tokens per visit: mean {tokens / visits:,.0f}, 95 % up to {_quantile(lengths, 0.95):,}, most {max(lengths):,}; "
        f"{prefix} are shared by all and computed once; {cut / len(lengths):.1%} of them exceed teacher.max_length={t.max_length} and lose text",
        f"teacher's work: {tokens:.3g} tokens, {flops:.3g} FLOPs; {a.rate:,.3g} visits/s per worker "
        + (
            "as given"
            if rate
            else f"= {MATRIX_RATE * gpus / 1e12:,.0f} TFLOP/s × {a.utilisation:.0%} / {flops / visits / 1e12:.3g} TFLOP (assumed)"
        ),
    ]
    return a, lines, hidden


def _teacher_phase(config: Config, visits: float, a: Assumptions) -> Phase:
    workers, gpus = max(1, config.teacher.workers.max), max(1.0, config.teacher.gpus_per_worker)
    hours = sum(wall_s(round(visits), workers, a).values()) / HOUR if round(visits) else 0.0
    return Phase(f"teacher, {workers} workers of {gpus:g} GPU", hours * workers * gpus, hours, spot_share(a))


class _Student:
    """The student's tokens, size and hours."""

    def __init__(self, config: Config, sampled: Sampled) -> None:
        from transformers import AutoTokenizer

        from ckd.store.models import revision
        from ckd.student.model import outline
        from ckd.student.tokens import tokenize

        s = config.student
        with without_weights("student.base_model", s.base_model) as folder:
            self.size = outline(s.base_model, folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision("student.base_model", folder))
        import pyarrow as pa

        table = pa.table({"visit_id": [v.visit_id for v in sampled.visits], "input": [v.input for v in sampled.visits]})
        self.tokens = tokenize(tokenizer, table, s.max_length)
        self.lengths = [len(ids) for ids in self.tokens["input_ids"].to_pylist()]
        self.config = s
        size = self.size
        flops = [training_flops(size.computing, size.layers, size.width, n) for n in self.lengths]
        self.rate = MATRIX_RATE * TRAINING_UTILISATION / (sampled.total(flops) / sampled.total([1.0] * len(flops)))
        self.line = (
            f"student: {size.parameters:,} weights, mean {sum(self.lengths) / len(self.lengths):,.0f} tokens; at most {s.epochs} epochs at "
            f"{self.rate:,.3g} visits/s per GPU = {MATRIX_RATE / 1e12:,.0f} TFLOP/s × {TRAINING_UTILISATION:.0%} / FLOPs of a training step (assumed)"
        )

    def phase(self, visits: float, a: Assumptions) -> Phase:
        """At most all epochs. One preemption stops all workers: it costs half a checkpoint interval, a new machine and a new start of each."""
        s = self.config
        workers, gpus = max(1, s.workers.max), max(1.0, s.gpus_per_worker)
        seconds = visits * s.epochs / (self.rate * workers * gpus)
        interval = s.checkpoint_steps * s.batch_size / (self.rate * workers * gpus)
        share = spot_share(a, interval / 2 + a.machine_s + a.load_s, workers)
        hours = (seconds + a.machine_s + a.load_s) / HOUR
        return Phase(f"student, {workers} workers of {gpus:g} GPU", hours * workers * gpus, hours, share)


def _costs(phases: Sequence[Phase], price: float, spot_price: float, a: Assumptions) -> Iterator[str]:
    hours = sum(phase.gpu_hours for phase in phases)
    spot = sum(spot_hours(phase.gpu_hours, phase.share) for phase in phases)
    formula = f"hours / (1 - preemptions per hour × rework); {a.preemptions_per_hour:g} preemptions per machine and hour (assumed)"
    yield f"GPU-hours: {_hours(hours)} on demand, {_hours(spot)} on spot = {formula}"
    if price:
        yield f"cost on demand: {hours * price:,.2f} at {price:g} per GPU-hour"
    if spot_price:
        saves = (
            f", {1 - spot * spot_price / (hours * price):.0%} less"
            if price and spot * spot_price < hours * price
            else ""
        )
        yield f"cost on spot: {spot * spot_price:,.2f} at {spot_price:g} per GPU-hour{saves}"
    if price and not spot_price:
        yield f"cost on spot: less than on demand wherever a spot GPU-hour costs less than {price * hours / spot:.4g} (--spot-price)"
    if not price and not spot_price:
        yield "cost: give --price and --spot-price, per GPU-hour"


def _disk(
    config: Config,
    sampled: Sampled,
    embedded: Sequence[float],
    training: Sequence[float],
    hidden: int,
    student: _Student,
) -> Iterator[str]:
    visits, scored = sampled.total(embedded), sampled.total([e - t for e, t in zip(embedded, training, strict=True)])
    every, public = (
        sampled.total([1.0] * len(sampled.visits)),
        len(json.dumps(dict.fromkeys(DISEASES, 0.12345678901234567), indent=4)) + 2,
    )
    value = 2 if config.teacher.store_dtype == "float16" else 4
    labels = 2 * 4 * len(DISEASES) + 20  # two float32 per label, an id
    from ckd.student.checkpoint import KEEP

    weights = student.size.parameters * 4
    stages = {
        "visits": every * _parquet_bytes(sampled.visits) / len(sampled.visits),
        "embeddings": visits * (hidden * value + 20),
        "head": (config.head.folds + 1) * len(DISEASES) * hidden * 4,
        "soft_labels": visits * labels,
        "tokens": visits * _table_bytes(student.tokens) / len(sampled.visits),
        "checkpoints": (KEEP + 2)
        * weights
        * 3,  # the best, the newest, one being written; weights and two moments of Adam
        "student": 2 * weights,  # safetensors and best_model.pt
        "predictions": scored * labels,
        "hands_name_*.json": visits * public,
    }
    yield f"disk: {_size(sum(stages.values()))} = " + ", ".join(
        f"{name} {_size(count)}" for name, count in stages.items()
    )


def _parquet_bytes(visits: Sequence[Visit]) -> int:
    from ckd.visits.visit import to_table

    return _table_bytes(to_table([visit if visit.split else replace(visit, split=visit.source) for visit in visits]))


def _table_bytes(table: Any) -> int:
    """As the store writes it, in memory."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.tell()


def _embedded_before(config: Config) -> int:
    run = Run(config)
    if cohort_artifact(run.root, {}).load() is None:
        return 0
    from ckd.teacher.embed import EMBEDDINGS

    shards = EMBEDDINGS.shards(config, run.stored)
    return sum(shard.rows for shard in audit_stage(run.root, EMBEDDINGS.name, shards, EMBEDDINGS.input_hash).done)


def _quantile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _hours(count: float) -> str:
    return f"{count:,.1f}" if count >= 100 else f"{count:.3g}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
