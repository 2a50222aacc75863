"""Runs a worker over shards, in this process or on Ray actors, and reports progress and failures."""

import os
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ckd.errors import CkdError, ConfigError, IncompleteError
from ckd.heartbeat import beating
from ckd.run import Run
from ckd.section import Workers
from ckd.stage import Step
from ckd.store.artifacts import Unit
from ckd.store.unwritable import unwritable
from ckd.switches import take_out
from ckd.threads import thread_pool
from ckd.visits.visit import Shard
from jobs.actors import tell_actors
from jobs.console import Console, Progress
from jobs.ray_session import ray_session

Factory = Callable[[], Callable[[Any], dict[str, Any]]]
_MAKING = threading.Lock()  # two threads with their first shard must not make (and load) two workers


@dataclass
class Guarded:
    """Makes a worker with its first shard and returns a failure as a row: an exception would abort the whole data set.

    The row names the error's type and place. Its text may quote a patient, so only our own errors' text is kept. A
    worker that could not be made is not made again: every shard would only meet the same.
    """

    factory: Factory
    worker: Callable[[Any], dict[str, Any]] | None = None
    broken: Mapping[str, Any] | None = None  # why no worker could be made

    def __call__(self, shard: Unit) -> dict[str, Any]:
        """The worker's row, or {"index", "rows", "error"}, "stop" (an exit code) where all would fail."""
        failed = {"index": shard.index, "rows": 0}
        try:
            worker = self._worker()
            return failed | dict(self.broken or {}) if worker is None else worker(shard)
        except CkdError as error:
            stop = {"stop": error.exit_code} if isinstance(error, ConfigError) else {}
            return {**failed, "error": str(error), **stop}
        except Exception as error:  # noqa: BLE001  the one supervision loop: a shard is set aside, the rest goes on
            return {**failed, "error": _why(error)}

    def _worker(self) -> Callable[[Any], dict[str, Any]] | None:
        with _MAKING:
            if self.worker is None and self.broken is None:
                try:
                    take_out()
                    self.worker = self.factory()
                except CkdError as error:
                    self.broken = {"error": str(error), "stop": error.exit_code}
                except Exception as error:  # noqa: BLE001  as above
                    what = f"no worker could be started ({_why(error)})"
                    self.broken = {"error": what, "stop": IncompleteError.exit_code}
        return self.worker


@dataclass(frozen=True)
class Made:
    """What one call of `make_missing` did: how many shards the stage has, and a row per shard that was computed now."""

    shards: int
    rows: list[dict[str, Any]]


def make_missing(
    run: Run,
    console: Console,
    step: Step,
    shards: Sequence[Shard] | None = None,
    given: Any = None,
    taken: Callable[[Mapping[str, Any], int], None] | None = None,
    **machines: Any,
) -> Made:
    """Compute the missing parts of a stage, of `shards` or of all that it should have. `machines` as in `map_worker`.

    `given`: a mapping of what the worker gets beside the run. `taken` is told each row and how many shards are left; it
    may raise, which ends the pass there.

    Raises MismatchError when a part was made otherwise; IncompleteError after the others are done, naming the failed
    shards.
    """
    label, wanted = step.label, step.shards(run.config, run.cohort) if shards is None else shards
    missing = step.missing(run, wanted)
    if shards is None:
        console.say(f"{label}: {len(wanted) - len(missing)} of {len(wanted)} shards done, {len(missing)} to do")
    if step.worker is None:
        raise TypeError(f"stage {step.name} has no worker")
    rows = []
    factory = partial(step.worker, run.elsewhere(), **(given or {}))
    with closing(each_row(console, label, factory, missing, **machines)) as done:
        for row in done:
            rows.append(row)
            if taken is not None:
                taken(row, len(missing) - len(rows))
    return Made(len(wanted), rows)


def map_worker(
    console: Console, label: str, factory: Factory, shards: Sequence[Unit], **machines: Any
) -> list[dict[str, Any]]:
    """The rows of `each_row`, when all shards are done."""
    return list(each_row(console, label, factory, shards, **machines))


def each_row(
    console: Console,
    label: str,
    factory: Factory,
    shards: Sequence[Unit],
    *,
    workers: Workers,
    gpus_per_worker: float = 0,
    threads: int = 1,
) -> Generator[dict[str, Any]]:
    """Every shard's row as it is done. Raises IncompleteError naming the failed shards after the others are done.

    With `threads` a worker is called with that many shards at once, so that one is read or written while another is
    computed.
    """
    if not shards:
        return
    progress = console.progress(label, sum(s.rows for s in shards))
    place = {"stage": label, "shards": len(shards)}
    console.event("stage_started", **place, visits=progress.total)
    rows = []

    def waiting(why: str) -> None:
        console.say(f"{label}: waiting for the first of {workers} workers: {why}")

    arriving = _run(Guarded(factory), shards, (workers, gpus_per_worker, threads), waiting)
    for row in arriving if workers.in_process else _awaited(arriving, label, len(shards)):
        rows.append(row)
        _report(console, progress, place, row)
        yield row
    progress.close()
    tell_actors(console, label, rows)
    failed = [row for row in rows if "error" in row]
    if failed:
        first = failed[0]
        raise IncompleteError(
            f"{label}: {len(failed)} of {len(shards)} shards failed (first: shard {first['index']}: {first['error']}); "
            "the others are kept, mend the cause and run the same command again"
        )


def _awaited(rows: Iterator[dict[str, Any]], label: str, count: int) -> Iterator[dict[str, Any]]:
    """The rows of workers elsewhere, whose beats nobody hears: while none comes, it is said that the pass goes on."""
    for done in range(count + 1):
        with beating(f"{label}: {done:,} of {count:,} shards done, workers at the others"):
            row = next(rows, None)
        if row is None:
            return
        yield row


def _report(console: Console, progress: Progress, place: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Say what became of a shard. Raises CkdError where every other shard would fail in the same way."""
    if "stop" in row:
        if row["stop"] == ConfigError.exit_code:
            raise ConfigError(row["error"])
        raise IncompleteError(f"{place['stage']}: {row['error']}; run the same command again")
    label, index = place["stage"], row["index"]
    if row.get("starts", 1) > 1:
        console.event("shard_retried", stage=label, shard=index, starts=row["starts"], attempts=row["attempts"])
    if "error" in row:
        console.say(f"{label}: shard {index} failed: {row['error']}")
        console.event("shard_failed", **place, shard=index, error=row["error"])
    else:
        progress.add(row["rows"], row.get("tokens", 0))
        where = {name: row[name] for name in ("machine", "actor") if name in row}
        console.event("shard_done", **place, shard=index, visits=row["rows"], **where)


def _run(
    worker: Guarded, shards: Sequence[Unit], machines: tuple[Workers, float, int], waiting: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    workers, gpus, threads = machines
    if workers.in_process and threads == 1:
        yield from map(worker, shards)
        return
    if workers.in_process:
        with thread_pool(threads) as pool:
            yield from pool.map(worker, shards)
        return
    from cluster.pool import map_shards

    least, most = max(workers.min, 1), workers.max
    with ray_session(most + 1):
        yield from map_shards(
            worker,
            shards,
            workers=(least, most),
            gpus_per_worker=gpus,
            refused=_refused,
            waiting=waiting,
            threads=threads,
        )


def _refused(shard: Unit, attempts: int) -> dict[str, Any]:
    """The row of a shard that is not started an `attempts`th time: a process that is killed cannot say why."""
    killed = f"its process was killed each of the {attempts - 1} times it was started (for want of memory, most often)"
    return {"index": shard.index, "rows": 0, "error": f"{killed}; the worker's and the machine's logs say more"}


def _kind(error: BaseException) -> str:
    """The error's type; for one of the operating system also its text, which holds nothing of the data."""
    number = error.errno if isinstance(error, OSError) else None
    return f"{type(error).__name__} ({os.strerror(number)})" if number else type(error).__name__


def _why(error: BaseException) -> str:
    """What a shard's row says of an error: the file that a disk refuses, else the type and the place in the code."""
    refused = unwritable(error)
    return str(refused).partition(";")[0] if refused else f"{_kind(error)} at {_place(error)}"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
