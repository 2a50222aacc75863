"""A driver: one `ckd` command in a process of its own, which can strike itself at one of its calls to the file system.

Drivers are forked from a process that has imported everything and started no thread, so each starts at once.
"""

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PRELOAD = ["benchmarks.disorder.driver", "jobs.pipeline", "jobs.ingest", "jobs.predict", "jobs.export_model"]
PRELOAD += ["jobs.verify", "ckd.predict.bundle", "ckd.student.trainer", "ckd.teacher.engine_hf", "ckd.teacher.head_fit"]
PRELOAD += ["sklearn.metrics", "polars", "ckd.evaluation.evaluate", "ray.data", "ray.train.torch", "deepspeed"]
CALLS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree")
COUNTED = "points: "
STUCK_S, STUCK = 240.0, 99
_LOOK_S = 0.02


@dataclass(frozen=True)
class Blow:
    """The signal that a driver sends itself, at which of its calls on paths that hold `own`; 0 is never."""

    signal: int = 0
    at: int = 0
    own: str = ""


NEVER = Blow()


class Points:
    """Counts the calls to the file system (Python's audit events) below a folder; the process strikes itself at one."""

    def __init__(self, folder: str, blow: Blow) -> None:
        self.folder, self.blow, self.count, self.lock = folder, blow, 0, threading.Lock()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CALLS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if not isinstance(path, str) or not path.startswith(self.folder) or self.blow.own not in path:
            return
        with self.lock:
            self.count += 1
            struck = self.count == self.blow.at
        if struck:
            os.kill(os.getpid(), self.blow.signal)


@dataclass(frozen=True)
class Ended:
    """How a driver ended: its exit code (-9 when it was killed), what it wrote, and how many calls it made."""

    code: int
    said: str
    points: int
    seconds: float

    @property
    def refusals(self) -> list[str]:
        """Its lines for the user that say why it did not do what was asked."""
        return [line for line in self.said.splitlines() if line.startswith("ckd: ")]


class Drivers:
    """Starts drivers whose calls below `folder` are counted; their output goes into files of `logs`."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder, self.logs, self.count = folder, logs, 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def start(self, words: Sequence[str], blow: Blow = NEVER, ray: str = "") -> "Driver":
        """`ckd` with these words; `ray` is the address of a cluster."""
        self.count += 1
        log = self.logs / f"{self.count:04}.txt"
        log.touch()
        process = self.context.Process(target=drive, args=(list(words), str(self.folder), str(log), blow, ray))
        process.start()
        return Driver(process, log)

    def run(self, words: Sequence[str], blow: Blow = NEVER, ray: str = "") -> Ended:
        """The same, to its end."""
        return self.start(words, blow, ray).ended()


class Driver:
    """A started driver."""

    def __init__(self, process: Any, log: Path) -> None:
        self.process, self.log, self.started = process, log, time.monotonic()

    def stopped(self) -> bool:
        """Wait until it has stopped itself; False when it ended instead."""
        self._until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)
        return bool(self.process.is_alive())

    def until_it_waits_or_ends(self) -> None:
        """Until it has ended, or said that it waits for another."""
        self._until(lambda: "waiting: " in self.log.read_text(errors="replace"))

    def go_on(self) -> None:
        """SIGCONT."""
        with suppress(psutil.NoSuchProcess):
            psutil.Process(self.process.pid).resume()

    def ended(self) -> Ended:
        """Wait for its end. One that does not end is killed, which its exit code shows."""
        self.process.join(STUCK_S)
        seconds = time.monotonic() - self.started
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            return Ended(STUCK, self.log.read_text(errors="replace"), 0, seconds)
        lines = self.log.read_text(errors="replace").splitlines(keepends=True)
        points = [line for line in lines if line.startswith(COUNTED)]
        said = "".join(line for line in lines if line not in points)
        return Ended(self.process.exitcode, said, int(points[-1].split()[1]) if points else 0, seconds)

    def _until(self, happened: Callable[[], bool]) -> None:
        ends = time.monotonic() + STUCK_S
        with suppress(psutil.NoSuchProcess):
            while self.process.is_alive() and not happened() and time.monotonic() < ends:
                time.sleep(_LOOK_S)


def drive(words: list[str], folder: str, log: str, blow: Blow, ray: str) -> None:
    """In a process of its own: the command, to the exit code that it has. A traceback goes into the log too."""
    if ray:
        os.environ["RAY_ADDRESS"] = ray
    points = Points(folder, blow)
    with Path(log).open("a", buffering=1) as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    from jobs.cli import main

    sys.addaudithook(points)
    code = 1
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  what would be a traceback is what is looked for
        traceback.print_exc()
    print(f"{COUNTED}{points.count}", flush=True)
    os._exit(code)
