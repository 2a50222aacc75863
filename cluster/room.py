"""How many workers could start now, when there is room for more, and what is missing for one.

It asks with placement groups of one worker each: Ray's scheduler itself answers (machines that are about to go count
for nothing), and what cannot be placed is a demand that an autoscaler sees.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_OF_PATIENCE = 5.0  # room enough for the least number waits so long for more of it
SECONDS_BETWEEN_LINES = 60.0
Bundle = dict[str, float]


@contextmanager
def _reserved(bundle: Bundle, count: int) -> Iterator[Callable[[], int]]:
    """Reserve room for `count` workers as it appears; yields how many have it so far."""
    groups = [placement_group([bundle]) for _ in range(count)]
    try:
        yield lambda: sum(placement_group_table(group).get("state") == "CREATED" for group in groups)
    finally:
        for group in groups:
            remove_placement_group(group)


def wait_for_room(
    bundle: Bundle,
    workers: tuple[int, int],
    waiting: Callable[[int], None],
    patience: float,
    stopped: Callable[[], bool],
) -> int:
    """How many workers of the (least, most) can start.

    It waits for the least, then for the most until `patience` seconds have passed without a gain. While it waits for
    the least, `waiting(room)` is called every minute. The room is given back, for the caller to take at once; once
    `stopped()` nothing is waited for.
    """
    least, most = workers
    with _reserved(bundle, most) as placed:
        room, gained, said = 0, time.monotonic(), time.monotonic()
        while True:
            before, room, now = room, placed(), time.monotonic()
            if room != before:
                gained = now
            if room == most or (room >= least and now - gained >= patience) or stopped():
                return room
            if room < least and now - said >= SECONDS_BETWEEN_LINES:
                said = now
                waiting(room)
            time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def watch_for_room(
    bundle: Bundle, missing: int, started: Callable[[], bool], found: Callable[[], Any], settle: float
) -> Iterator[None]:
    """While the block runs: once `started()`, wait for room for the `missing` workers, then call `found()` once.

    All of it counts at once, some of it after `settle` seconds: machines tend to come one after the other, and each
    gain costs a restart.
    """
    ended = threading.Event()

    def look() -> None:
        while not started():
            if ended.wait(SECONDS_BETWEEN_LOOKS):
                return
        with _reserved(bundle, missing) as placed:
            since: float | None = None
            while not ended.wait(SECONDS_BETWEEN_LOOKS):
                room = placed()
                since = (since or time.monotonic()) if room else None
                if room == missing or (since is not None and time.monotonic() - since >= settle):
                    found()
                    ended.wait()  # holds the room until the group has left

    watcher = threading.Thread(target=look, daemon=True)
    if missing:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if missing:
            watcher.join()


@contextmanager
def telling_what_lacks(bundle: Bundle, started: Callable[[], bool], tell: Callable[[str], None]) -> Iterator[None]:
    """While the block runs and nothing has `started()`, call `tell` each minute with what a worker lacks."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES) and not started():
            tell(lacking(bundle))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def lacking(bundle: Bundle) -> str:
    """Why a worker with these resources has not started, as far as the machines that are up tell."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = sum(all(machine.get(name, 0) >= amount for name, amount in bundle.items()) for machine in machines)
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
    if fit:
        return f"each of the {fit} machines that have the {wanted} it asks for is busy, or starts it now"
    has = ", ".join(f"{sum(machine.get(name, 0) for machine in machines):g} {name}" for name in bundle)
    return (
        f"none of the {len(machines)} machines that are up (together {has}) has the {wanted} it asks for; an "
        "autoscaler may be starting one: 'ray status' says so"
    )
