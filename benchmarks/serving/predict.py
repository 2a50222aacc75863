"""What `ckd predict` does per second and how much memory it takes, by engine and workers; and what a kill changes.

Student and texts are tiny, so that the machinery is measured. `seconds` are the whole command's, `visits_per_s` leaves
out what comes before the stage, `steady_visits_per_s` also every worker's start and first part. The peer is
transformers' pipeline (batches of 32) over the first 2,000 texts, loaded and warm. --out is written after every run.
Exit code 1 when a kill was not half-way, or its run's parts differ from an undisturbed run's.

    python -m benchmarks.serving.predict [--visits 20000 200000] [--runs 3 1] [--shard-rows 4096] [--out FILE]
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import ROOT, Report, options
from benchmarks.serving.command import Command, parts, times
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
Runs = dict[tuple[str, int], list[dict[str, float]]]  # (engine, workers) -> the figures of its runs


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT), TOKENIZERS_PARALLELISM="false")
    report = Report("serving.predict", argv, arguments.out)
    student = {"hidden": SIZE.hidden, "layers": SIZE.layers, "heads": SIZE.heads, "max_length": MAX_LENGTH}
    report |= {"student": {**student, "threads_per_process": 1}, "results": []}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(report, Path(name), arguments.shard_rows)
        for n, (count, runs) in enumerate(zip(arguments.visits, arguments.runs, strict=True)):
            bench.measure(count, runs)
            if n == 0:
                report["killed"] = [bench.kill_half_way(count, engine) for engine in ENGINES]
                report["pipeline_visits_per_s"] = round(bench.peer(count), 1)
                report.save()
    rates = {f"{r['visits']} {r['engine']} {r['workers']}": r["steady_visits_per_s"] for r in report["results"]}
    report["ratio_to_pipeline"] = {k: round(v / report["pipeline_visits_per_s"], 2) for k, v in rates.items()}
    print(json.dumps(report, indent=1))
    return report.finish(all(map(_proves, report["killed"])))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--visits", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--runs", type=int, nargs="+", default=[3, 1], help="timed runs for each number of visits")
    parser.add_argument("--shard-rows", type=int, default=4096, help="visits per part")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


class Bench:
    """One benchmark run: its report, its files and the student."""

    def __init__(self, report: Report, folder: Path, shard_rows: int) -> None:
        self.report, self.folder, self.shard_rows = report, folder, shard_rows
        self.model = make_model(folder)

    def _command(self, count: int, out: Path, engine: str, workers: int) -> Command:
        return Command(self._source(count), self.model, out, engine, workers, self.shard_rows)

    def _source(self, count: int) -> Path:
        return self.folder / f"{count}.jsonl"

    def measure(self, count: int, runs: int) -> None:
        """All engines and numbers of workers in turn, `runs` times; their medians are in the report after every run."""
        write_rows(self._source(count), count)
        before = list(self.report["results"])
        found: Runs = {(e, w): [] for e in ENGINES for w in WORKERS if w or count < MANY}
        for run in range(runs):
            for (engine, workers), rows in found.items():
                out = self.folder / f"out-{count}-{engine}-{workers}"
                shutil.rmtree(out, ignore_errors=True)
                rows.append(self._command(count, out, engine, workers).finish())
                shown = {name: round(value, 1) for name, value in rows[-1].items()}
                print(count, engine, workers, run, shown, flush=True)
                self.report["results"] = before + _medians(count, found)
                self.report.save()

    def kill_half_way(self, count: int, engine: str) -> dict[str, Any]:
        """A run with 2 workers, killed with half of its parts and run again, against the parts of `measure`.

        `kept` counts the parts from before the kill that the second run left as they were.
        """
        out, whole = self.folder / f"killed-{engine}", parts(self.folder / f"out-{count}-{engine}-0")
        command = self._command(count, out, engine, 2)
        command.wait_for(len(whole) // 2)
        command.kill()
        left = times(out)
        seconds = self._command(count, out, engine, 2).finish()["seconds"]
        again = times(out)
        kept = sum(again[name] == when for name, when in left.items())
        found = {"engine": engine, "visits": count, "parts": len(whole), "parts_at_the_kill": len(left), "kept": kept}
        found |= {"equal_bytes": parts(out) == whole, "seconds_of_the_second_run": round(seconds, 1)}
        print(found, flush=True)
        return found

    def peer(self, count: int) -> float:
        """visits/s of transformers' pipeline, loading not counted."""
        with self._source(count).open() as file:
            texts = [json.loads(line)["input"] for _, line in zip(range(PEER_TEXTS), file, strict=False)]
        path = self.folder / "texts.json"
        path.write_text(json.dumps(texts))
        command = [sys.executable, "-c", PEER, self.model, str(path)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def text(rng: random.Random) -> str:
    """A short visit: about 20 tokens of the tiny student's vocabulary."""
    titles = [f"Disorders of system {rng.randrange(200)}" for _ in range(rng.randint(1, 6))]
    drugs = [f"Medication {rng.randrange(300)}" for _ in range(rng.randint(1, 9))]
    procedures = [f"Procedure {rng.randrange(100)}"]
    return render_input(titles, drugs, procedures, dict.fromkeys(rng.sample(DISEASES, 2), drugs[:2]))


def write_rows(path: Path, count: int) -> None:
    """Rows as a nightly job has them: no output."""
    rng, when = random.Random(0), "2150-01-01T00:00:00"
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            row = {"visit_id": f"v{n}", "subject_id": n // 3, "prediction_time": when, "input": text(rng)}
            file.write(json.dumps(row) + "\n")


def make_model(folder: Path) -> str:
    """An exported folder of an untrained student with ONNX files and a calibration."""
    rng, student, exported = random.Random(1), folder / "student", str(folder / "exported")
    make_student(str(folder / "base"), [text(rng) for _ in range(3000)], 0, SIZE)
    shutil.copytree(folder / "base", student, ignore=shutil.ignore_patterns("artifact.json"))
    artifact = FolderArtifact(str(student), {"student.max_length": MAX_LENGTH})
    artifact.commit(path.name for path in student.iterdir())
    maps = (Map("platt", slope=0.9, intercept=-0.1),) * NUM_LABELS
    Calibration(maps, np.full(NUM_LABELS, 0.5)).save(str(student / FILE), DISEASES, artifact.identity())
    model = ModelFolder.open(str(student))
    with tempfile.TemporaryDirectory() as local:
        build(model, local, onnx=True)
        deliver(local, exported, bundle_fields(model, onnx=True, card={}), "# A student for a benchmark\n", {})
    return exported


def _medians(count: int, found: Runs) -> list[dict[str, Any]]:
    return [
        {"visits": count, "engine": engine, "workers": workers, "runs": len(rows)}
        | {name: round(median(row[name] for row in rows), 1) for name in rows[0]}
        for (engine, workers), rows in found.items()
        if rows
    ]


def _proves(row: dict[str, Any]) -> bool:
    """The kill came in between, and the second run neither changed nor repeated anything."""
    half_way = 0 < row["parts_at_the_kill"] < row["parts"]
    return bool(row["equal_bytes"] and half_way and row["kept"] == row["parts_at_the_kill"])


if __name__ == "__main__":
    raise SystemExit(main())
