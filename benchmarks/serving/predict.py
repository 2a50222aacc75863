"""What `ckd predict` does per second and how much memory it takes, by engine and number of workers; and that a kill half-way changes no part.

The student is tiny and the texts are short, so that it is the machinery that is measured; a model of your size costs what student_vs_teacher
says. Each run is the command in a process of its own: `seconds` are the whole command's, `visits_per_s` leaves out what comes before the stage,
`steady_visits_per_s` also every worker's start and first part. The peer is transformers' pipeline (batches of 32) over the first 2,000 texts,
loaded and warm. The larger numbers of visits come last, so that an end before time costs little: --out is written after every run.

    python -m benchmarks.serving.predict [--visits 20000 200000] [--runs 3 1] [--shard-rows 4096] [--out benchmarks/results/predict.json]
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.teacher.speed import ROOT, header
from ckd.calibration import FILE, Calibration, Map
from ckd.predict.bundle import build, bundle_fields, deliver
from ckd.predict.modelfolder import ModelFolder
from ckd.store.artifacts import FolderArtifact
from ckd.student.tiny import StudentSize, make_student
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES, NUM_LABELS

SIZE = StudentSize(hidden=64, layers=2, heads=4, vocabulary=2000, positions=128)
MAX_LENGTH = 64
ENGINES, WORKERS = ("torch", "onnx"), (0, 1, 2)
MANY = 100_000  # visits from which on only Ray workers are timed
PEER_TEXTS = 2000
PEER = """
import json, sys, time
from transformers import pipeline
texts = json.load(open(sys.argv[2]))
classify = pipeline("text-classification", model=sys.argv[1], top_k=None, truncation=True, function_to_apply="sigmoid")
classify(texts[:64], batch_size=32)
started = time.monotonic()
classify(texts, batch_size=32)
print(len(texts) / (time.monotonic() - started))
"""


def text(rng: random.Random) -> str:
    """A short visit: about 20 tokens of the tiny student's vocabulary."""
    titles = [f"Disorders of system {rng.randrange(200)}" for _ in range(rng.randint(1, 6))]
    drugs = [f"Medication {rng.randrange(300)}" for _ in range(rng.randint(1, 9))]
    return render_input(
        titles, drugs, [f"Procedure {rng.randrange(100)}"], dict.fromkeys(rng.sample(DISEASES, 2), drugs[:2])
    )


def write_rows(path: Path, count: int) -> None:
    """Rows as a nightly job has them: no output."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            row = {
                "visit_id": f"v{n}",
                "subject_id": n // 3,
                "prediction_time": "2150-01-01T00:00:00",
                "input": text(rng),
            }
            file.write(json.dumps(row) + "\n")


def make_model(folder: Path) -> str:
    """An exported folder of an untrained student with ONNX files and a calibration."""
    rng = random.Random(1)
    make_student(str(folder / "base"), [text(rng) for _ in range(3000)], 0, SIZE)
    shutil.copytree(folder / "base", folder / "student", ignore=shutil.ignore_patterns("artifact.json"))
    artifact = FolderArtifact(str(folder / "student"), {"student.max_length": MAX_LENGTH})
    artifact.commit(path.name for path in (folder / "student").iterdir())
    maps = (Map("platt", slope=0.9, intercept=-0.1),) * NUM_LABELS
    Calibration(maps, np.full(NUM_LABELS, 0.5)).save(str(folder / "student" / FILE), artifact.identity())
    model = ModelFolder.open(str(folder / "student"))
    with tempfile.TemporaryDirectory() as local:
        build(model, local, onnx=True)
        deliver(
            local,
            str(folder / "exported"),
            bundle_fields(model, onnx=True, card={}),
            "# A student for a benchmark\n",
            {},
        )
    return str(folder / "exported")


class Command:
    """One `ckd predict` in a process of its own; `peaks` are MB of resident memory: the driver's, and the largest of any Ray worker."""

    def __init__(self, source: Path, model: str, out: Path, engine: str, workers: int, shard_rows: int) -> None:
        words = [str(source), "--model", model, "--out", str(out), "--engine", engine, f"student.workers={workers}"]
        words += [f"data.shard_rows={shard_rows}"]
        self.out, self.workers, self.errors, self.started = out, workers, Path(f"{out}.stderr"), time.monotonic()
        self.peaks = {"driver": 0.0, "worker": 0.0}
        command = [sys.executable, "-m", "jobs.cli", "predict", *words]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)

    def wait_for(self, count: int) -> None:
        """Until there are so many parts, or its end. Looks at nothing else: the next parts are soon there."""
        while self.process.poll() is None and len(_times(self.out)) < count:
            time.sleep(0.01)

    def watch(self) -> float:
        """Wait for its end; returns seconds since its start."""
        driver = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            for process in [driver, *_below(driver)]:
                place = "driver" if process == driver else "worker"
                self.peaks[place] = max(
                    self.peaks[place], _megabytes(process) if process == driver or _is_worker(process) else 0.0
                )
            time.sleep(0.1)
        return time.monotonic() - self.started

    def kill(self) -> None:
        """SIGKILL it with everything that it started, itself first: nothing must have time to end in good order."""
        if self.process.poll() is not None:
            told = self.errors.read_text(errors="replace")[-500:]
            raise RuntimeError(
                f"ckd predict ended with {self.process.returncode} before it could be killed; give more --visits: {told}"
            )
        below = _below(psutil.Process(self.process.pid))
        self.process.kill()
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> dict[str, float]:
        """The figures of a run to its end."""
        seconds = self.watch()
        if self.process.returncode:
            raise RuntimeError(
                f"ckd predict ended with {self.process.returncode}: {self.errors.read_text(errors='replace')[-500:]}"
            )
        events = [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]
        figures = next(event for event in reversed(events) if event["event"] == "predict")
        return {
            "seconds": seconds,
            "visits_per_s": figures["visits_per_s"],
            "steady_visits_per_s": steady(self.out, max(self.workers, 1)),
            "tokens_per_s": figures["tokens_per_s"],
            "driver_mb": self.peaks["driver"],
            "worker_mb": self.peaks["worker"],
        }


def steady(out: Path, workers: int) -> float:
    """visits/s between the first parts, one per worker, and the last one, by the times at which they were put in place; 0 for too few parts."""
    found = sorted(
        (path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in (out / "predictions").glob("part-*.parquet")
    )
    if len(found) <= workers or found[-1][0] == found[workers - 1][0]:
        return 0.0
    return float(sum(rows for _, rows in found[workers:]) / (found[-1][0] - found[workers - 1][0]))


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _megabytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss / 1e6)
    except psutil.Error:
        return 0.0


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any("ray::" in word for word in process.cmdline()[:1])
    except psutil.Error:
        return False


def _times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "predictions").glob("part-*.parquet")}


def parts(out: Path) -> dict[str, bytes]:
    """The predictions' parts, byte by byte."""
    return {path.name: path.read_bytes() for path in sorted((out / "predictions").glob("part-*.parquet"))}


def measure(
    folder: Path, model: str, count: int, runs: int, shard_rows: int, keep: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """All engines and numbers of workers in turn, `runs` times; medians, which `keep` gets after every run."""
    source = folder / f"{count}.jsonl"
    write_rows(source, count)
    found: dict[tuple[str, int], list[dict[str, float]]] = {
        (engine, workers): [] for engine in ENGINES for workers in WORKERS if workers or count < MANY
    }
    for run in range(runs):
        for (engine, workers), rows in found.items():
            out = folder / f"out-{count}-{engine}-{workers}"
            shutil.rmtree(out, ignore_errors=True)
            rows.append(Command(source, model, out, engine, workers, shard_rows).finish())
            print(count, engine, workers, run, {name: round(value, 1) for name, value in rows[-1].items()}, flush=True)
            keep(_medians(count, found))
    return _medians(count, found)


def _medians(count: int, found: dict[tuple[str, int], list[dict[str, float]]]) -> list[dict[str, Any]]:
    return [
        {
            "visits": count,
            "engine": engine,
            "workers": workers,
            "runs": len(rows),
            **{name: round(median(row[name] for row in rows), 1) for name in rows[0]},
        }
        for (engine, workers), rows in found.items()
        if rows
    ]


def killed_half_way(folder: Path, model: str, count: int, shard_rows: int) -> list[dict[str, Any]]:
    """A run with 2 workers that is killed with half of its parts, and run again: against the undisturbed parts of `measure`.

    `kept` counts the parts of before the kill that the second run left as they were.
    """
    results = []
    for engine in ENGINES:
        out, whole = folder / f"killed-{engine}", parts(folder / f"out-{count}-{engine}-0")
        command = Command(folder / f"{count}.jsonl", model, out, engine, 2, shard_rows)
        command.wait_for(len(whole) // 2)
        command.kill()
        left = _times(out)
        seconds = Command(folder / f"{count}.jsonl", model, out, engine, 2, shard_rows).finish()["seconds"]
        again = _times(out)
        results.append(
            {
                "engine": engine,
                "visits": count,
                "parts": len(whole),
                "parts_at_the_kill": len(left),
                "kept": sum(again[name] == when for name, when in left.items()),
                "equal_bytes": parts(out) == whole,
                "seconds_of_the_second_run": round(seconds, 1),
            }
        )
        print(results[-1], flush=True)
    return results


def peer(folder: Path, model: str, count: int) -> float:
    """visits/s of transformers' pipeline, loading not counted."""
    with (folder / f"{count}.jsonl").open() as file:
        texts = [json.loads(line)["input"] for _, line in zip(range(PEER_TEXTS), file, strict=False)]
    (folder / "texts.json").write_text(json.dumps(texts))
    done = subprocess.run(
        [sys.executable, "-c", PEER, model, str(folder / "texts.json")], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def _keep(report: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n")


def main(argv: list[str]) -> int:
    """Run everything; 1 when a kill was not half-way, or its run's parts differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--runs", type=int, nargs="+", default=[3, 1], help="timed runs for each number of visits")
    parser.add_argument("--shard-rows", type=int, default=4096, help="visits per part")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT), TOKENIZERS_PARALLELISM="false")
    report = header("cpu", argv, None, "serving.predict")
    report["student"] = {
        "hidden": SIZE.hidden,
        "layers": SIZE.layers,
        "heads": SIZE.heads,
        "max_length": MAX_LENGTH,
        "threads_per_process": 1,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder)
        _measure_all(report, folder, model, options)
    report["load_average_at_the_end"] = os.getloadavg()[0]
    report["ratio_to_pipeline"] = {
        f"{row['visits']} {row['engine']} {row['workers']}": round(
            row["steady_visits_per_s"] / report["pipeline_visits_per_s"], 2
        )
        for row in report["results"]
    }
    _keep(report, options.out)
    print(json.dumps(report, indent=1))
    return 0 if all(_proves(row) for row in report["killed"]) else 1


def _measure_all(report: dict[str, Any], folder: Path, model: str, options: argparse.Namespace) -> None:
    """Fill the report; what has been measured survives an end before time."""
    results: list[dict[str, Any]] = []
    report["results"] = results

    def keep(measured: list[dict[str, Any]]) -> None:
        report["results"] = results + measured
        _keep(report, options.out)

    for n, (count, runs) in enumerate(zip(options.visits, options.runs, strict=True)):
        results += measure(folder, model, count, runs, options.shard_rows, keep)
        if n == 0:
            report["killed"] = killed_half_way(folder, model, count, options.shard_rows)
            report["pipeline_visits_per_s"] = round(peer(folder, model, count), 1)
            keep([])
    report["results"] = results


def _proves(row: dict[str, Any]) -> bool:
    """The kill came in between, and the second run neither changed nor repeated anything."""
    return bool(
        row["equal_bytes"] and 0 < row["parts_at_the_kill"] < row["parts"] and row["kept"] == row["parts_at_the_kill"]
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
