"""What a long step is at, told in one line per 10 s to whoever listens in this process: figures only, no patient text.

A shard, a model's load and the bootstrap can each take minutes without a result. Where nobody listens (a worker on Ray)
a beat costs a look at a variable.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN = 10.0


class _Listener:
    def __init__(self, tell: Callable[[str], None], seconds: float) -> None:
        self.tell, self.seconds, self.last = tell, seconds, time.monotonic()
        self.changing = threading.Lock()

    def hear(self, line: str) -> None:
        with self.changing:
            now = time.monotonic()
            if now - self.last < self.seconds:
                return
            self.last = now
        self.tell(line)


_listening: list[_Listener] = []  # the last one hears


@contextmanager
def heard(tell: Callable[[str], None], seconds: float = SECONDS_BETWEEN) -> Iterator[None]:
    """Hand the beats of the block to `tell`, at most one per `seconds`."""
    listener = _Listener(tell, seconds)
    _listening.append(listener)
    try:
        yield
    finally:
        _listening.remove(listener)


def beat(line: str) -> None:
    """Say where a step is."""
    if _listening:
        _listening[-1].hear(line)


@contextmanager
def beating(line: str) -> Iterator[None]:
    """Say every now and then that a block which cannot tell where it is goes on, and since when."""
    if not _listening:
        yield
        return
    started, ended = time.monotonic(), threading.Event()

    def repeat(seconds: float) -> None:
        while not ended.wait(seconds):
            beat(f"{line}, {time.monotonic() - started:.0f} s so far")

    thread = threading.Thread(target=repeat, args=(max(_listening[-1].seconds, 0.01),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
