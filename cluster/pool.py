"""A pool of stateful Ray Data actors that maps a worker over items, each item a task of its own.

Ray retries, scales and restarts lost actors; attempts.py ends the retries. An item may run twice, the store makes it
count once.
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socket import gethostname
from typing import Any, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext

from cluster.attempts import Ruling, Verdict, start_attempts
from cluster.room import telling_what_lacks
from cluster.session import session

Item = TypeVar("Item")
Row = dict[str, Any]
Worker = Callable[[Any], Row]
Refused = Callable[[Any, int], Row]  # an item that is not started again, and which start it would have been -> its row
# Items given to an actor per item that it runs: the next is there when one ends. Below 1.75 Ray Data's pool never
# grows.
GIVEN = 2
SECONDS_TO_DELIVER = 1.0  # the rows of an actor that leaves its machine are on their way to the driver


def map_shards(
    worker: Callable[[Item], Row],
    items: Sequence[Item],
    *,
    workers: tuple[int, int],
    gpus_per_worker: float,
    refused: Callable[[Item, int], Row],
    waiting: Callable[[str], None],
    threads: int = 1,
) -> Iterator[Row]:
    """Yield `worker(item)`, JSON values, for every item in any order, with its "attempts" and "starts" (attempts.py),
    and the "machine" and "actor" (its process) that did it.

    `worker` is pickled once per actor and must return failures as rows: an exception aborts everything. It must be safe
    to run twice, even at the same time: that happens to an item whose machine is lost. An item that ended its process
    three times is not started again: its row is `refused(item, 4)`. `workers` is the (least, most) number of actors, >=
    1; with `threads` each actor runs that many items at once, in threads of one process. Until the first actor has
    started, `waiting` is told each minute what it lacks.
    """
    with session(cpus=workers[1] + 1):
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        attempts = start_attempts()
        positions = ray.data.from_items([{"position": n} for n in range(len(items))], override_num_blocks=len(items))
        rows = positions.map(
            _Actor,
            fn_constructor_args=(worker, list(items), refused, threads, attempts),
            compute=_strategy(workers, len(items), threads),
            num_gpus=gpus_per_worker or None,
        )
        bundle = {"GPU": gpus_per_worker} if gpus_per_worker else {"CPU": 1.0}
        with telling_what_lacks(bundle, lambda: ray.get(attempts.begun.remote()), waiting):
            for row in rows.iter_rows():
                yield json.loads(row["row"])


def _strategy(workers: tuple[int, int], items: int, threads: int) -> ActorPoolStrategy:
    """Ask at once for as many actors as find work: Ray Data would ask an autoscaler for one machine after another."""
    return ActorPoolStrategy(
        min_size=workers[0],
        max_size=workers[1],
        initial_size=max(workers[0], min(workers[1], math.ceil(items / threads))),
        max_tasks_in_flight_per_actor=GIVEN * threads,
        max_concurrent_calls_per_actor=threads,
        enable_true_multi_threading=threads > 1,
    )


class _Actor:
    """What Ray Data starts: maps an item's position to its row."""

    def __init__(self, worker: Worker, items: list[Any], refused: Refused, threads: int, attempts: Any) -> None:
        """`attempts` is the actor of start_attempts."""
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
                return self.refused(self.items[position], ruling.attempts) | _facts(ruling)
            return self._run(position, ruling)

    def _run(self, position: int, ruling: Ruling) -> Row:
        return self.worker(self.items[position]) | _facts(ruling) | {"machine": gethostname(), "actor": os.getpid()}

    def _ask(self, position: int, alone: bool = False) -> Ruling:
        ruling: Ruling = ray.get(self.attempts.rule.remote(position, self.node, alone or self.seats.count == 1))
        return ruling


def _facts(ruling: Ruling) -> Row:
    return {"attempts": ruling.attempts, "starts": ruling.starts}


class Seats:
    """Lets `count` threads run at a time, or one that wants to be alone."""

    def __init__(self, count: int) -> None:
        """All seats are free."""
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
