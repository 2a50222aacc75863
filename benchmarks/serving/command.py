"""One `ckd predict` in a process of its own: its figures and memory, a kill half-way, and the parts that it leaves."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from benchmarks.report import ROOT


class Command:
    """Starts at once. `peaks` are MB of resident memory: the driver's, and the largest of any Ray worker."""

    def __init__(self, source: Path, model: str, out: Path, engine: str, workers: int, shard_rows: int) -> None:
        words = [str(source), "--model", model, "--out", str(out), "--engine", engine]
        words += [f"student.workers={workers}", f"data.shard_rows={shard_rows}"]
        self.out, self.workers, self.errors, self.started = out, workers, Path(f"{out}.stderr"), time.monotonic()
        self.peaks = {"driver": 0.0, "worker": 0.0}
        command = [sys.executable, "-m", "jobs", "predict", *words]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)

    def wait_for(self, count: int) -> None:
        """Until there are so many parts, or its end. Looks at nothing else: the next parts are soon there."""
        while self.process.poll() is None and len(times(self.out)) < count:
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL it with everything that it started, itself first: nothing must have time to end in good order."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self._ended()} before it could be killed; give more --visits: {self._tail()}")
        below = _below(psutil.Process(self.process.pid))
        self.process.kill()
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> dict[str, float]:
        """The figures of a run to its end."""
        seconds = self._watch()
        if self.process.returncode:
            raise RuntimeError(f"{self._ended()}: {self._tail()}")
        events = [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]
        figures = next(event for event in reversed(events) if event["event"] == "predict")
        return {
            "seconds": seconds,
            "visits_per_s": figures["visits_per_s"],
            "steady_visits_per_s": steady(self.out, max(self.workers, 1)),
            "tokens_per_s": figures["tokens_per_s"],
            **{f"{place}_mb": peak for place, peak in self.peaks.items()},
        }

    def _watch(self) -> float:
        """Wait for its end; returns seconds since its start."""
        driver = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            for process in [driver, *_below(driver)]:
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    if process == driver or "ray::" in "".join(process.cmdline()[:1]):
                        place = "driver" if process == driver else "worker"
                        self.peaks[place] = max(self.peaks[place], process.memory_info().rss / 1e6)
            time.sleep(0.1)
        return time.monotonic() - self.started

    def _ended(self) -> str:
        return f"ckd predict ended with {self.process.returncode}"

    def _tail(self) -> str:
        return self.errors.read_text(errors="replace")[-500:]


def steady(out: Path, workers: int) -> float:
    """visits/s between the first parts, one per worker, and the last, by their files' times; 0 for too few parts."""
    found = sorted((path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in _files(out))
    if len(found) <= workers or found[-1][0] == found[workers - 1][0]:
        return 0.0
    return float(sum(rows for _, rows in found[workers:]) / (found[-1][0] - found[workers - 1][0]))


def times(out: Path) -> dict[str, int]:
    """When each part was put in place."""
    return {path.name: path.stat().st_mtime_ns for path in _files(out)}


def parts(out: Path) -> dict[str, bytes]:
    """The predictions' parts, byte by byte."""
    return {path.name: path.read_bytes() for path in _files(out)}


def _files(out: Path) -> list[Path]:
    return sorted((out / "predictions").glob("part-*.parquet"))


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []
