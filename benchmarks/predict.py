"""What `ckd predict` does per second and how much memory it takes, by engine and number of workers; and that a kill half-way changes no part.

The student is tiny and the texts are short, so that it is the machinery that is measured; a model of your size costs what student_vs_teacher
says. Each run is the command in a process of its own; the peer is transformers' pipeline (batches of 32) over the first 2,000 texts.

    python -m benchmarks.predict [--visits 20000 200000] [--runs 3 1] [--out benchmarks/results/predict.json]
"""

import argparse
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
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.teacher import ROOT, header
from ckd.calibration import FILE, Calibration, Map
from ckd.grammar import render_input
from ckd.labels import DISEASES, NUM_LABELS
from ckd.store import FolderArtifact
from ckd.student.bundle import build, bundle_fields, deliver
from ckd.student.modelfolder import ModelFolder
from ckd.student.tiny import StudentSize, make_student

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
    return render_input(titles, drugs, [f"Procedure {rng.randrange(100)}"], dict.fromkeys(rng.sample(DISEASES, 2), drugs[:2]))


def write_rows(path: Path, count: int) -> None:
    """Rows as a nightly job has them: no output."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            row = {"visit_id": f"v{n}", "subject_id": n // 3, "prediction_time": "2150-01-01T00:00:00", "input": text(rng)}
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
        deliver(local, str(folder / "exported"), bundle_fields(model, onnx=True, card={}), "# A student for a benchmark\n", {})
    return str(folder / "exported")


class Command:
    """One `ckd predict` in a process of its own; `peaks` are MB of resident memory: the driver's, and the largest of any Ray worker."""

    def __init__(self, source: Path, model: str, out: Path, engine: str, workers: int) -> None:
        words = [str(source), "--model", model, "--out", str(out), "--engine", engine, f"student.workers={workers}"]
        self.out, self.started = out, time.monotonic()
        self.peaks = {"driver": 0.0, "worker": 0.0}
        command = [sys.executable, "-m", "jobs.cli", "predict", *words]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def watch(self, stop: Callable[[], bool] = lambda: False) -> float:
        """Wait for its end, or until `stop`; returns seconds since its start."""
        driver = psutil.Process(self.process.pid)
        while self.process.poll() is None and not stop():
            for process in [driver, *_below(driver)]:
                place = "driver" if process == driver else "worker"
                self.peaks[place] = max(self.peaks[place], _megabytes(process) if process == driver or _is_worker(process) else 0.0)
            time.sleep(0.1)
        return time.monotonic() - self.started

    def kill(self) -> None:
        """SIGKILL it with everything that it started."""
        for process in [*_below(psutil.Process(self.process.pid)), psutil.Process(self.process.pid)]:
            process.send_signal(signal.SIGKILL) if process.is_running() else None
        self.process.wait()

    def finish(self) -> dict[str, float]:
        """The figures of a run to its end."""
        seconds = self.watch()
        if self.process.returncode:
            raise RuntimeError(
                f"ckd predict ended with {self.process.returncode}: {(self.process.stderr.read() if self.process.stderr else '')[-500:]}"
            )
        events = [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]
        figures = next(event for event in reversed(events) if event["event"] == "predict")
        return {
            "seconds": seconds,
            "visits_per_s": figures["visits_per_s"],
            "tokens_per_s": figures["tokens_per_s"],
            "driver_mb": self.peaks["driver"],
            "worker_mb": self.peaks["worker"],
        }


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


def _has(out: Path, count: int) -> bool:
    return len(list((out / "predictions").glob("part-*"))) >= count


def parts(out: Path) -> dict[str, bytes]:
    """The predictions' parts, byte by byte."""
    return {path.name: path.read_bytes() for path in sorted((out / "predictions").glob("*.parquet"))}


def measure(folder: Path, model: str, count: int, runs: int) -> list[dict[str, Any]]:
    """All engines and numbers of workers in turn, `runs` times; medians."""
    source = folder / f"{count}.jsonl"
    write_rows(source, count)
    found: dict[tuple[str, int], list[dict[str, float]]] = {
        (engine, workers): [] for engine in ENGINES for workers in WORKERS if workers or count < MANY
    }
    for run in range(runs):
        for (engine, workers), rows in found.items():
            out = folder / f"out-{count}-{engine}-{workers}"
            shutil.rmtree(out, ignore_errors=True)
            rows.append(Command(source, model, out, engine, workers).finish())
            print(count, engine, workers, run, {name: round(value, 1) for name, value in rows[-1].items()}, flush=True)
    return [
        {
            "visits": count,
            "engine": engine,
            "workers": workers,
            "runs": runs,
            **{name: round(median(row[name] for row in rows), 1) for name in rows[0]},
        }
        for (engine, workers), rows in found.items()
    ]


def killed_half_way(folder: Path, model: str, count: int) -> list[dict[str, Any]]:
    """A run with 2 workers that is killed with half of its parts, and run again: against the undisturbed parts of `measure`."""
    results = []
    for engine in ENGINES:
        out, whole = folder / f"killed-{engine}", parts(folder / f"out-{count}-{engine}-0")
        command = Command(folder / f"{count}.jsonl", model, out, engine, 2)
        command.watch(partial(_has, out, len(whole) // 2))
        command.kill()
        left = len(parts(out))
        Command(folder / f"{count}.jsonl", model, out, engine, 2).finish()
        results.append({"engine": engine, "visits": count, "parts": len(whole), "parts_at_the_kill": left, "equal_bytes": parts(out) == whole})
        print(results[-1], flush=True)
    return results


def peer(folder: Path, model: str, count: int) -> float:
    """visits/s of transformers' pipeline, loading not counted."""
    with (folder / f"{count}.jsonl").open() as file:
        texts = [json.loads(line)["input"] for _, line in zip(range(PEER_TEXTS), file, strict=False)]
    (folder / "texts.json").write_text(json.dumps(texts))
    done = subprocess.run([sys.executable, "-c", PEER, model, str(folder / "texts.json")], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _keep(report: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n")


def main(argv: list[str]) -> int:
    """Run everything; 1 when a killed run's parts differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--runs", type=int, nargs="+", default=[3, 1], help="timed runs for each number of visits")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT), TOKENIZERS_PARALLELISM="false")
    report = header("cpu", argv, None, "predict")
    report["student"] = {"hidden": SIZE.hidden, "layers": SIZE.layers, "heads": SIZE.heads, "max_length": MAX_LENGTH, "threads_per_process": 1}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder)
        report["results"] = []
        for count, runs in zip(options.visits, options.runs, strict=True):
            report["results"] += measure(folder, model, count, runs)
            _keep(report, options.out)  # what has been measured survives an end before time
        report["killed"] = killed_half_way(folder, model, options.visits[0])
        report["pipeline_visits_per_s"] = round(peer(folder, model, options.visits[0]), 1)
    report["ratio_to_pipeline"] = {
        f"{row['visits']} {row['engine']} {row['workers']}": round(row["visits_per_s"] / report["pipeline_visits_per_s"], 2)
        for row in report["results"]
    }
    _keep(report, options.out)
    print(json.dumps(report, indent=1))
    return 0 if all(row["equal_bytes"] for row in report["killed"]) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
