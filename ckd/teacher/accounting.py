"""What a teacher pass cost: an account per shard, their sum per worker, and the rates, shares and prices made of it.

A figure without a value is None, never 0: a share of nothing, a rate without time, a cost without a price.
"""

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ckd.config import TeacherConfig
from ckd.teacher.engine import Engine, Load
from ckd.teacher.work import Work

GIB = 2**30
HOUR = 3600.0
MILLION = 1_000_000


@dataclass(frozen=True)
class Account:
    """What one worker did from the first to the last moment of one or more shards."""

    worker: str  # unique: an actor that replaced a lost one is another worker
    load: Load
    matrix_rate: float | None  # FLOP/s of one device, measured once after the load
    started: float  # seconds on the worker's own clock, which is never compared with another worker's
    ended: float
    shards: int
    visits: int
    tokens: int  # the tokenizer's count of the prompts that were stored
    work: Work

    @property
    def wall_s(self) -> float:
        """Seconds from the first shard's start to the last one's end, gaps between shards included."""
        return self.ended - self.started

    def __add__(self, other: "Account") -> "Account":
        """Both accounts of one worker as one; raises ValueError when they are of two."""
        if self.worker != other.worker:
            raise ValueError(f"accounts of two workers, {self.worker} and {other.worker}, have no common clock")
        return replace(
            self,
            started=min(self.started, other.started),
            ended=max(self.ended, other.ended),
            shards=self.shards + other.shards,
            visits=self.visits + other.visits,
            tokens=self.tokens + other.tokens,
            work=self.work + other.work,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Account":
        """The account in a row that crossed to the driver as JSON."""
        values = row["account"]
        return cls(**{**values, "load": Load(**values["load"]), "work": Work(**values["work"])})


class Meter:
    """A worker's meter: made once after the model's load, read at the end of every shard."""

    def __init__(self, engine: Engine, config: TeacherConfig) -> None:
        """Measure the matrix rate of the device, which takes about half a second."""
        from ckd.teacher.matrix_rate import matrix_rate

        self.load, self.worker = engine.load, uuid.uuid4().hex
        self.rate = matrix_rate("cuda" if config.gpus_per_worker > 0 else "cpu", config.dtype)

    def read(self, started: float, visits: int, tokens: int, work: Work) -> dict[str, Any]:
        """The account, as JSON values, of a shard that started at time.monotonic() `started` and ends now.

        The work for a shard that failed is in the next one's, since it is paid for; its visits and tokens are in none.
        """
        return asdict(Account(self.worker, self.load, self.rate, started, time.monotonic(), 1, visits, tokens, work))


def per_worker(accounts: Iterable[Account]) -> list[Account]:
    """One account per worker, in the order in which they first appear."""
    sums: dict[str, Account] = {}
    for account in accounts:
        sums[account.worker] = sums[account.worker] + account if account.worker in sums else account
    return list(sums.values())


def figures(accounts: Iterable[Account], config: TeacherConfig, seconds: float, before: int = 0) -> dict[str, Any]:
    """The figures of one job, of at least one account. `before` is how many shards an earlier one had done.

    `seconds` is the driver's wall time for all of it, the start of the workers and their loads included. Only shards
    whose result reached the driver count: what a lost machine did is in no figure.
    """
    workers = per_worker(accounts)
    return {
        **_speed(workers, seconds, before),
        **_device(workers, config),
        "load_seconds": max(w.load.seconds for w in workers),
        **{
            name: ", ".join(sorted({value for w in workers if (value := getattr(w.load, name))})) or None
            for name in ("engine", "device", "revision", "adapter", "note")
        },
        **_cost(workers, config),
    }


def _speed(workers: list[Account], seconds: float, before: int) -> dict[str, Any]:
    """…_per_s: done / seconds, what the user waited for.

    …_per_worker: done / Σ wall of the workers, without loads: what one more worker adds, and a long pass tends to.
    """
    visits, tokens, wall_s = sum(w.visits for w in workers), sum(w.tokens for w in workers), _wall_s(workers)
    return {
        "shards": sum(w.shards for w in workers),
        "shards_before": before,
        "visits": visits,
        "tokens": tokens,
        "seconds": seconds,
        "workers": len(workers),
        "visits_per_s": _ratio(visits, seconds),
        "tokens_per_s": _ratio(tokens, seconds),
        "visits_per_s_per_worker": _ratio(visits, wall_s),
        "tokens_per_s_per_worker": _ratio(tokens, wall_s),
    }


def _device(workers: list[Account], config: TeacherConfig) -> dict[str, Any]:
    """padding_share: padding / tokens pushed through the model.

    prefix_share: tokens not computed thanks to the shared prefix / all tokens of the prompts.
    flop_utilisation: Σ FLOPs of the computed tokens (work.forward_flops) / Σ wall × measured matrix rate × GPUs.
    idle_share: 1 - busy / Σ wall of the workers; not below 0, although device and host count with two clocks.
    peak_bytes: the most on any worker's device; None where there is none (a CPU).
    """
    work, wall_s = sum((w.work for w in workers), Work()), _wall_s(workers)
    measured, devices = all(w.matrix_rate for w in workers), max(1.0, config.gpus_per_worker)
    possible = sum(w.wall_s * (w.matrix_rate or 0) * devices for w in workers)
    return {
        "computed_tokens": work.computed,
        "padding_share": _ratio(work.padding, work.computed),
        "prefix_share": _ratio(work.prefix_saved, work.tokens),
        "flops": work.flops or None,
        "matrix_flops_per_s": sum(w.matrix_rate or 0 for w in workers) / len(workers) if measured else None,
        "flop_utilisation": _ratio(work.flops, possible) if work.flops and measured else None,
        "idle_share": max(0.0, 1 - work.busy_s / wall_s) if work.busy_s and wall_s > 0 else None,
        "peak_bytes": work.peak_bytes or None,
        "ooms": work.ooms,
    }


def _cost(workers: list[Account], config: TeacherConfig) -> dict[str, Any]:
    """cost: of this job's workers, their loads included. cost_per_million visits: without loads.

    A long pass pays the loads once. price_per_hour is the price of a GPU-hour: a worker with gpus_per_worker=0.5 costs
    half of it, one without a GPU (0) all of it. What a machine costs before its worker starts and after its last shard
    is in neither.
    """
    visits, wall_s, price = sum(w.visits for w in workers), _wall_s(workers), _price(config)
    return {
        "price_per_hour": config.paid_per_hour or None,
        "gpus_per_worker": config.gpus_per_worker,
        "cost": price * (wall_s + sum(w.load.seconds for w in workers)) if price else None,
        "cost_per_million": price * wall_s / visits * MILLION if price and visits else None,
    }


def cost(accounts: Iterable[Account], config: TeacherConfig) -> float | None:
    """What these shards cost, loads included; None without a price."""
    found: float | None = _cost(per_worker(accounts), config)["cost"]
    return found


def _price(config: TeacherConfig) -> float | None:
    """Of one worker's second."""
    return config.paid_per_hour * (config.gpus_per_worker or 1) / HOUR or None


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures for a person, at most four lines."""
    before = found["shards_before"]
    resumed = f" in the shards done now ({found['shards']}, not the {before} of before)" if before else ""
    note = f"; {found['note']}" if found["note"] else ""
    said = [
        f"{_plain(found['visits'])} visits{resumed} in {found['seconds']:,.1f} s: "
        f"{_number(found['visits_per_s'])} visits/s, {_plain(found['tokens_per_s'])} tokens/s; "
        f"{_number(found['visits_per_s_per_worker'])} visits/s per worker once loaded (workers: {found['workers']})",
        f"{found['engine']} on {found['device']}: {_share(found['flop_utilisation'])} of its measured matrix rate "
        f"({_number(found['matrix_flops_per_s'], 1e12, ' TFLOP/s')}), idle {_share(found['idle_share'])}, "
        f"padding {_share(found['padding_share'])}, shared prefix {_share(found['prefix_share'])} of the tokens{note}",
        f"model loaded in {found['load_seconds']:,.1f} s (revision {_short(found['revision'])}, "
        f"adapter {_short(found['adapter'])}), peak device memory {_number(found['peak_bytes'], GIB, ' GiB')}, "
        f"batches halved for memory: {found['ooms']}",
    ]
    if found["cost"] is not None:
        said.append(
            f"cost {_number(found['cost'])}, and {_number(found['cost_per_million'])} per million visits once loaded, "
            f"at {found['price_per_hour']:g} per {'GPU' if found['gpus_per_worker'] else 'worker'} and hour"
        )
    return said


def _wall_s(workers: list[Account]) -> float:
    return sum(w.wall_s for w in workers)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _plain(value: float | None) -> str:
    return "—" if value is None else f"{value:,.0f}"


def _number(value: float | None, unit: float = 1, name: str = "") -> str:
    if value is None:
        return "—"
    amount = value / unit
    return (f"{amount:,.4g}" if abs(amount) < 1000 else f"{amount:,.0f}") + name


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def _short(value: str | None) -> str:
    return "—" if value is None else value[:12]
