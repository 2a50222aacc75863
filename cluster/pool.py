"""A pool of stateful Ray Data actors that maps a worker over items, each item a task of its own. Ray gives retries, autoscaling and the
restart of lost actors, cluster.attempts their end; exactly-once is the store's business, and what an item or a row means is the caller's."""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext

from cluster.attempts import Ruling, Verdict, start_attempts
from cluster.session import session

Item = TypeVar("Item")
Row = dict[str, Any]
GIVEN = 2  # items given to an actor per item that it runs: the next is there when one ends. Below 1.75 Ray Data's pool never grows.
SECONDS_TO_DELIVER = 1.0  # the rows of an actor that leaves its machine are on their way to the driver


def map_shards(
    worker: Callable[[Item], Row],
    items: Sequence[Item],
    *,
    workers: tuple[int, int],
    gpus_per_worker: float,
    refused: Callable[[Item, int], Row],
    threads: int = 1,
) -> Iterator[Row]:
    """Yield `worker(item)` for every item, in no promised order, with its "attempts" and "starts" (see cluster.attempts). Rows must be JSON values.

    `worker` is pickled once per actor and must return failures as rows: an exception aborts everything. An item may run more than once, even
    twice at a time, when its machine is lost, so the worker must be safe to run twice. An item that ended its process three times is not started
    again: its row is `refused(item, 4)`. `workers` is the (least, most) number of actors, >= 1; with `threads` each actor runs that many items at
    once, in threads of one process.
    """
    with session(cpus=workers[1] + 1):
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        positions = ray.data.from_items([{"position": n} for n in range(len(items))], override_num_blocks=len(items))
        rows = positions.map(
            _Actor,
            fn_constructor_kwargs={
                "worker": worker,
                "items": list(items),
                "refused": refused,
                "threads": threads,
                "attempts": start_attempts(),
            },
            compute=ActorPoolStrategy(
                min_size=workers[0],
                max_size=workers[1],
                initial_size=_at_first(workers, len(items), threads),
                max_tasks_in_flight_per_actor=GIVEN * threads,
                max_concurrent_calls_per_actor=threads,
                enable_true_multi_threading=threads > 1,
            ),
            num_gpus=gpus_per_worker or None,
        )
        for row in rows.iter_rows():
            yield json.loads(row["row"])


def _at_first(workers: tuple[int, int], items: int, threads: int) -> int:
    """Actors to ask for at once: as many as find work. Left to itself Ray Data would ask an autoscaler for one machine after another."""
    return max(workers[0], min(workers[1], math.ceil(items / threads)))


class _Actor:
    """What Ray Data starts: holds the worker, takes positions."""

    def __init__(
        self,
        worker: Callable[[Any], Row],
        items: list[Any],
        refused: Callable[[Any, int], Row],
        threads: int,
        attempts: Any,
    ) -> None:
        self.worker, self.items, self.refused, self.attempts = worker, items, refused, attempts
        self.node, self.seats = ray.get_runtime_context().get_node_id(), Seats(threads)

    def __call__(self, row: dict[str, int]) -> dict[str, str]:
        return {"row": json.dumps(self._row(row["position"]))}

    def _row(self, position: int) -> Row:
        with self.seats.taken(alone=False):
            ruling = self._ask(position)
            if ruling.verdict is Verdict.RUN:
                return self._run(position, ruling)
        with self.seats.taken(alone=True):
            ruling = self._ask(position, alone=True)
            if ruling.verdict is Verdict.LEAVE:
                time.sleep(SECONDS_TO_DELIVER)
                os._exit(1)  # Ray starts the actor again where there is room, and gives it the items that it still held
            if ruling.verdict is Verdict.REFUSE:
                return {
                    **self.refused(self.items[position], ruling.attempts),
                    "attempts": ruling.attempts,
                    "starts": ruling.starts,
                }
            return self._run(position, ruling)

    def _run(self, position: int, ruling: Ruling) -> Row:
        return {**self.worker(self.items[position]), "attempts": ruling.attempts, "starts": ruling.starts}

    def _ask(self, position: int, alone: bool = False) -> Ruling:
        ruling: Ruling = ray.get(self.attempts.begin.remote(position, self.node, alone or self.seats.count == 1))
        return ruling


class Seats:
    """Room for `count` threads at a time, or for one that wants to be alone."""

    def __init__(self, count: int) -> None:
        self.count = self.free = count
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, alone: bool) -> Iterator[None]:
        """Hold one seat, or all of them."""
        wanted = self.count if alone else 1
        with self.changed:
            self.changed.wait_for(lambda: self.free >= wanted)
            self.free -= wanted
        try:
            yield
        finally:
            with self.changed:
                self.free += wanted
                self.changed.notify_all()
