"""A pool of stateful Ray Data actors that maps a worker over items, each item a task of its own. Ray gives retries, autoscaling and the
restart of lost actors; exactly-once is the store's business, and what an item or a row means is the caller's."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext

from cluster.session import session

Item = TypeVar("Item")
GIVEN = 2  # items given to an actor per item that it runs: the next is there when one ends. Below 1.75 Ray Data's pool never grows.


def map_shards(
    worker: Callable[[Item], dict[str, Any]], items: Sequence[Item], *, workers: tuple[int, int], gpus_per_worker: float, threads: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield `worker(item)` for every item, in no promised order. Rows must be JSON values.

    `worker` is pickled once per actor and must return failures as rows: an exception aborts everything. An item may run more than once
    when its machine is lost, so the worker must be safe to run twice. `workers` is the (least, most) number of actors, >= 1; with `threads`
    each actor runs that many items at once, in threads of one process.
    """
    with session(cpus=workers[1] + 1):
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        positions = ray.data.from_items([{"position": n} for n in range(len(items))], override_num_blocks=len(items))
        rows = positions.map(
            _Actor,
            fn_constructor_kwargs={"worker": worker, "items": list(items)},
            compute=ActorPoolStrategy(
                min_size=workers[0],
                max_size=workers[1],
                max_tasks_in_flight_per_actor=GIVEN * threads,
                max_concurrent_calls_per_actor=threads,
                enable_true_multi_threading=threads > 1,
            ),
            num_gpus=gpus_per_worker or None,
        )
        for row in rows.iter_rows():
            yield json.loads(row["row"])


class _Actor:
    """What Ray Data starts: holds the worker, takes positions."""

    def __init__(self, worker: Callable[[Any], dict[str, Any]], items: list[Any]) -> None:
        self.worker, self.items = worker, items

    def __call__(self, row: dict[str, int]) -> dict[str, str]:
        return {"row": json.dumps(self.worker(self.items[row["position"]]))}
