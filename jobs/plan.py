"""Job: estimate what a run will take, before anything is paid for: tokens, GPU-hours, cost on demand and on spot, disk.
Nothing is started and nothing is written. The formulas are in ckd.estimate.
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
from ckd.store.pretrained import Source, load_tokenizer
from ckd.visits.audit import audit_stage
from ckd.visits.cohort import cohort_artifact
from jobs.arguments import amount
from jobs.console import Console
from jobs.plan_sample import Sampled, sample, table_bytes


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
    rate = "visits/s of one worker of the teacher, as an earlier run's embed_accounting says; "
    rate += "without it from the model's size"
    parser.add_argument("--visits-per-second", type=amount, default=0.0, metavar="R", help=rate)


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Print the plan. Raises DataError without inputs, ConfigError without models."""
    price = arguments.price or config.teacher.price_per_hour
    for line in plan(
        config, price, arguments.spot_price or config.teacher.spot_price_per_hour, arguments.visits_per_second
    ):
        console.say(f"plan: {line}")


def plan(config: Config, price: float, spot_price: float, rate: float) -> Iterator[str]:
    """The plan, line by line."""
    sampled = sample(config)
    visits, to_train = sampled.total(sampled.embedded), sampled.total(sampled.training)
    if not visits:
        raise DataError(
            f"none of {sampled.drawn:,} rows drawn has labels; "
            "give labelled visits, or student.use_unlabeled=true with some"
        )
    yield (
        f"{sampled.rows:,} rows; of {sampled.drawn:,} drawn {len(sampled.visits):,} can be used: "
        f"about {visits:,.0f} visits for the teacher, {to_train:,.0f} of them train the student"
    )
    teacher, geometry_lines, hidden = _teacher(config, sampled, rate)
    yield from geometry_lines
    done = _embedded_before(config)
    if done:
        yield f"{done:,} visits are embedded already and are not paid again"
    lender, named = config.run.lender
    if lender:
        yield f"what is taken by {named} is not paid; it is not taken off here"
    phases = [_teacher_phase(config, max(0.0, visits - done), teacher)]
    student = _Student(config, sampled)
    phases.append(student.phase(to_train, teacher))
    yield student.line
    for phase in phases:
        took = f"{_hours(phase.gpu_hours)} GPU-hours in {_hours(phase.wall_hours)} hours"
        yield f"{phase.name}: {took}; on spot {phase.share:.2%} of the time is done again"
    yield from _costs(phases, price, spot_price, teacher)
    yield from _disk(config, sampled, hidden, student)
    yield (
        "nothing was started or written; a job writes its real rate as embed_accounting to events.jsonl: "
        "pass it as --visits-per-second"
    )


def _teacher(config: Config, sampled: Sampled, rate: float) -> tuple[Assumptions, list[str], int]:
    """The assumptions with this teacher's rate, the lines about its tokens and work, the width of its embeddings."""
    from ckd.teacher.chat_template import load_prompter
    from ckd.teacher.decoder import outline
    from ckd.teacher.prefix import shared_prefix
    from ckd.teacher.work import forward_flops

    t = config.teacher
    with without_weights("teacher.base_model", t.base_model) as folder:
        teacher = Source("teacher.base_model", t.base_model, folder)
        tokenizer, geometry, hidden = outline(t, teacher)
        prompts, cut = load_prompter(t, tokenizer).encode(
            [v.instruction for v in sampled.visits], [v.input for v in sampled.visits]
        )
    prefix, lengths = shared_prefix(prompts), [len(ids) for ids in prompts]
    known = list(zip(lengths, sampled.embedded, strict=True))
    visits = sampled.total(sampled.embedded)
    tokens = sampled.total([n * share for n, share in known])
    flops = sampled.total([forward_flops(geometry, 1, n - prefix, prefix) * share for n, share in known])
    gpus = max(1.0, t.gpus_per_worker)
    a = replace(Assumptions(), shard_rows=config.data.shard_rows, given=4 if t.gpus_per_worker else 2)
    if rate:
        a, source = replace(a, ceiling=rate, utilisation=1.0), "as given"
    else:
        a = replace(a, ceiling=MATRIX_RATE * gpus / (flops / visits))
        per_worker = f"{MATRIX_RATE * gpus / 1e12:,.0f} TFLOP/s × {a.utilisation:.0%}"
        source = f"= {per_worker} / {flops / visits / 1e12:.3g} TFLOP (assumed)"
    lines = [
        f"teacher's tokens per visit: mean {tokens / visits:,.0f}, 95 % up to {_quantile(lengths, 0.95):,}, "
        f"most {max(lengths):,}; {prefix} are shared by all and computed once; "
        f"{cut / len(lengths):.1%} of them exceed teacher.max_length={t.max_length} and lose text",
        f"teacher's work: {tokens:.3g} tokens, {flops:.3g} FLOPs; {a.rate:,.3g} visits/s per worker {source}",
    ]
    return a, lines, hidden


def _teacher_phase(config: Config, visits: float, a: Assumptions) -> Phase:
    workers, gpus = max(1, config.teacher.workers.max), max(1.0, config.teacher.gpus_per_worker)
    hours = sum(wall_s(round(visits), workers, a).values()) / HOUR if round(visits) else 0.0
    return Phase(f"teacher, {workers} workers of {gpus:g} GPU", hours * workers * gpus, hours, spot_share(a))


class _Student:
    """The student's tokens, size and hours."""

    def __init__(self, config: Config, sampled: Sampled) -> None:
        from ckd.student.model import outline
        from ckd.student.tokens import tokenize

        s = config.student
        with without_weights("student.base_model", s.base_model) as folder:
            source = Source("student.base_model", s.base_model, folder)
            self.size, tokenizer = outline(source, len(sampled.task)), load_tokenizer(source)
        import pyarrow as pa

        table = pa.table({"visit_id": [v.visit_id for v in sampled.visits], "input": [v.input for v in sampled.visits]})
        self.tokens = tokenize(tokenizer, table, s.max_length)
        lengths = [len(ids) for ids in self.tokens["input_ids"].to_pylist()]
        self.config = s
        size = self.size
        flops = [training_flops(size.computing, size.layers, size.width, n) for n in lengths]
        self.rate = MATRIX_RATE * TRAINING_UTILISATION / (sampled.total(flops) / sampled.every)
        self.line = (
            f"student: {size.parameters:,} weights, mean {sum(lengths) / len(lengths):,.0f} tokens; "
            f"at most {s.epochs} epochs at {self.rate:,.3g} visits/s per GPU = {MATRIX_RATE / 1e12:,.0f} TFLOP/s × "
            f"{TRAINING_UTILISATION:.0%} / FLOPs of a training step (assumed)"
        )

    def phase(self, visits: float, a: Assumptions) -> Phase:
        """GPU-hours of all epochs, the most there can be.

        One preemption stops all workers: it costs half a checkpoint interval, a new machine and a new start of each.
        """
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
    yield (
        f"GPU-hours: {_hours(hours)} on demand, {_hours(spot)} on spot = hours / (1 - preemptions per hour × rework); "
        f"{a.preemptions_per_hour:g} preemptions per machine and hour (assumed)"
    )
    if price:
        yield f"cost on demand: {hours * price:,.2f} at {price:g} per GPU-hour"
    if spot_price:
        cheaper = price and spot * spot_price < hours * price
        saves = f", {1 - spot * spot_price / (hours * price):.0%} less" if cheaper else ""
        yield f"cost on spot: {spot * spot_price:,.2f} at {spot_price:g} per GPU-hour{saves}"
    if price and not spot_price:
        limit = f"{price * hours / spot:.4g} (--spot-price)"
        yield f"cost on spot: less than on demand wherever a spot GPU-hour costs less than {limit}"
    if not price and not spot_price:
        yield "cost: give --price and --spot-price, per GPU-hour"


def _disk(config: Config, sampled: Sampled, hidden: int, student: _Student) -> Iterator[str]:
    from ckd.student.checkpoint import KEEP

    visits, drawn = sampled.total(sampled.embedded), len(sampled.visits)
    scored = sampled.total([e - t for e, t in zip(sampled.embedded, sampled.training, strict=True)])
    public = len(json.dumps(dict.fromkeys(sampled.task.names, 0.12345678901234567), indent=4)) + 2
    value = 2 if config.teacher.store_dtype == "float16" else 4
    labels = 2 * 4 * len(sampled.task) + 20  # two float32 per label, an id
    weights = student.size.parameters * 4
    stages = {
        "visits": sampled.every * sampled.visit_bytes() / drawn,
        "embeddings": visits * (hidden * value + 20),
        "head": (config.head.folds + 1) * len(sampled.task) * hidden * 4,
        "soft_labels": visits * labels,
        "tokens": visits * table_bytes(student.tokens) / drawn,
        # The best, the newest, one being written; each holds the weights and two moments of Adam.
        "checkpoints": (KEEP + 2) * weights * 3,
        "student": 2 * weights,  # safetensors and best_model.pt
        "predictions": scored * labels,
        "hands_name_*.json": visits * public,
    }
    parts = ", ".join(f"{name} {_size(count)}" for name, count in stages.items())
    yield f"disk: {_size(sum(stages.values()))} = {parts}"


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
