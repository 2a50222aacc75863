"""Ctrl-C, SIGTERM (a notice: Slurm, Kubernetes, a spot machine) and SIGHUP (a closed terminal) as an orderly end.

A command that is stopped says in one line what is kept and how to go on, and ends with 130 (Ctrl-C) or 3.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from ckd.errors import IncompleteError

WHO = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP, the terminal has gone"}
SECONDS_OF_ONE_PRESS = 0.3  # `timeout -s INT` sends it to the process and to its group
KEPT = "what is finished is kept"


class StoppedError(KeyboardInterrupt):
    """A signal asks this command to end. No Exception, so that nothing that supervises the work of others keeps it."""

    def __init__(self, number: int, kept: str = KEPT) -> None:
        super().__init__(f"stopped by {WHO[signal.Signals(number)]}; {kept}; run the same command again to continue")
        self.exit_code = exit_code(number)


def exit_code(number: int) -> int:
    """128 + 2 for Ctrl-C, as a shell says it; else that of a command which another try completes."""
    return 128 + number if number == signal.SIGINT else IncompleteError.exit_code


class Stop:
    """The handler of all three signals: the first one counts. Ctrl-C once more ends the process where it stands."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that came
        self.at, self.saving = 0.0, False

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Raise StoppedError, or, where a step is to be saved, say that it will be."""
        if self.number is None:
            self.number, self.at = number, time.monotonic()
            if not self.saving:
                raise StoppedError(number)
            _write(f"ckd: {WHO[signal.Signals(number)]}: the step in progress is saved first; Ctrl-C now ends at once")
        elif number == signal.SIGINT and time.monotonic() - self.at > SECONDS_OF_ONE_PRESS:
            _write("ckd: ended at once; run the same command again to continue")
            os._exit(exit_code(number))

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None


@contextmanager
def stopping() -> Iterator[Stop]:
    """Take the signals inside the block, if this is the main thread; nested use joins the block that is there.

    One that the command was started to ignore (`nohup`, a shell's `&`) stays ignored.
    """
    found = next((one for one in map(signal.getsignal, WHO) if isinstance(one, Stop)), None)
    if found or current_thread() is not main_thread():
        yield found or Stop()
        return
    stop, before = Stop(), {number: signal.getsignal(number) for number in WHO}
    for number in not_ignored():
        signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def saving(kept: Callable[[], str]) -> Iterator[Callable[[], bool]]:
    """Inside the block a signal only makes the yielded question true, so that the block saves its work and ends.

    Raises StoppedError, with what is `kept()`, at its end.
    """
    with stopping() as stop:
        stop.saving = True
        try:
            yield stop.asked
        finally:
            stop.saving = False
        if stop.number is not None:
            raise StoppedError(stop.number, kept())


def not_ignored() -> list[signal.Signals]:
    """The signals of the three that this process was not started to ignore."""
    return [number for number in WHO if signal.getsignal(number) is not signal.SIG_IGN]


def _write(line: str) -> None:
    """To standard error, past Python's buffers: the handler may stand in the middle of another write."""
    try:
        os.write(2, f"{line}\n".encode())
    except OSError:
        return  # the terminal has gone
