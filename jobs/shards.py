"""Runs a worker over shards, in this process or on Ray actors, and reports progress. What a worker does belongs to ckd."""

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ckd.config import Workers
from ckd.errors import ArtifactError, CkdError, ConfigError, IncompleteError
from ckd.store.artifacts import Stage
from ckd.visits.visit import Shard
from jobs.console import Console


class Unit(Protocol):
    """What a worker is given: a shard of visits, or a partition of tables."""

    @property
    def index(self) -> int:
        """Its number."""

    @property
    def rows(self) -> int:
        """What the progress counts."""


Factory = Callable[..., Callable[[Any], dict[str, Any]]]
_MAKING = threading.Lock()  # two threads with their first shard must not make (and load) two workers


@dataclass
class Guarded:
    """A worker that is made with its first shard and returns a failure as a row: an exception would abort the whole data set.

    The row names the error's type and place; its text may quote a patient, so only our own errors' text is kept.
    """

    factory: Factory
    kwargs: Mapping[str, Any]
    worker: Callable[[Any], dict[str, Any]] | None = None

    def __call__(self, shard: Unit) -> dict[str, Any]:
        """The worker's row, or {"index", "rows", "error"}."""
        try:
            with _MAKING:
                self.worker = self.worker or self.factory(**self.kwargs)
            return self.worker(shard)
        except CkdError as error:
            return {"index": shard.index, "rows": 0, "error": str(error), "stop": isinstance(error, ConfigError)}
        except Exception as error:  # noqa: BLE001  the one supervision loop: a shard is set aside, the rest goes on
            return {"index": shard.index, "rows": 0, "error": f"{_kind(error)} at {_place(error)}"}


def map_worker(
    console: Console,
    label: str,
    factory: Factory,
    kwargs: Mapping[str, Any],
    shards: Sequence[Unit],
    *,
    workers: Workers,
    gpus_per_worker: float = 0,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Every shard's row. Raises IncompleteError naming the failed shards after the others are done.

    With `threads` a worker is called with that many shards at once, so that one is read or written while another is computed.
    """
    if not shards:
        return []
    progress = console.progress(label, sum(s.rows for s in shards))
    place = {"stage": label, "shards": len(shards)}
    console.event("stage_started", **place, visits=progress.total)
    rows = []
    for row in _run(Guarded(factory, kwargs), shards, workers, gpus_per_worker, threads):
        rows.append(row)
        if row.get("stop"):  # every other shard would fail in the same way
            raise ConfigError(row["error"])
        if row.get("starts", 1) > 1:
            console.event(
                "shard_retried", stage=label, shard=row["index"], starts=row["starts"], attempts=row["attempts"]
            )
        if "error" in row:
            console.say(f"{label}: shard {row['index']} failed: {row['error']}")
            console.event("shard_failed", **place, shard=row["index"], error=row["error"])
        else:
            progress.add(row["rows"], row.get("tokens", 0))
            console.event("shard_done", **place, shard=row["index"], visits=row["rows"])
    progress.close()
    failed = sorted(row["index"] for row in rows if "error" in row)
    if failed:
        first = next(row for row in rows if "error" in row)
        raise IncompleteError(
            f"{label}: {len(failed)} of {len(shards)} shards failed (first: shard {first['index']}: {first['error']}); "
            "the others are kept, mend the cause and run the same command again"
        )
    return rows


def _run(
    worker: Guarded, shards: Sequence[Unit], workers: Workers, gpus_per_worker: float, threads: int
) -> Iterator[dict[str, Any]]:
    if workers.in_process and threads == 1:
        yield from map(worker, shards)
        return
    if workers.in_process:
        with ThreadPoolExecutor(threads) as pool:
            try:
                yield from pool.map(worker, shards)
            finally:
                pool.shutdown(cancel_futures=True)
        return
    from cluster.pool import map_shards

    actors = (max(workers.min, 1), workers.max)
    yield from map_shards(
        worker, shards, workers=actors, gpus_per_worker=gpus_per_worker, refused=_refused, threads=threads
    )


def _refused(shard: Unit, attempts: int) -> dict[str, Any]:
    """The row of a shard that is set aside without starting it an `attempts`th time: a process that is killed cannot say why."""
    told = f"its process was killed each of the {attempts - 1} times it was started (for want of memory, most often)"
    return {"index": shard.index, "rows": 0, "error": f"{told}; the worker's and the machine's logs say more"}


def _kind(error: BaseException) -> str:
    """The type; of an error of the operating system also its own words for it, which know nothing of the data."""
    number = error.errno if isinstance(error, OSError) else None
    return f"{type(error).__name__} ({os.strerror(number)})" if number else type(error).__name__


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def require_parts(stage: Stage, shards: Sequence[Shard], command: str) -> None:
    """Raise ArtifactError naming the command to run when parts of an earlier stage are missing."""
    missing = [s.index for s in shards if not stage.is_done(s.index, rows=s.rows, input_hash=s.text_hash)]
    if missing:
        raise ArtifactError(
            f"{stage.folder}: {len(missing)} of {len(shards)} shards are missing (first: {missing[0]}); run '{command}' first"
        )
