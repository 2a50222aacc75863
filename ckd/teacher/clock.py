"""Measures how long a device worked without waiting for it: CUDA events, or the wall clock on a CPU."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceClock:
    """Adds up the seconds between the first and last operation of each block, on the device's own clock."""

    def __init__(self, device: torch.device) -> None:
        """Use CUDA events when `device` is a GPU."""
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block; one that raises is not counted."""
        if not self._cuda:
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._events.append((begin, end))

    def take(self) -> float:
        """Seconds since the last take. Waits for work still under way."""
        for begin, end in self._events:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        seconds, self._seconds, self._events = self._seconds, 0.0, []
        return seconds
