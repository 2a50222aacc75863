"""What training the student costs: the public code's loop (everything padded to 512, float32, batch 8) and this project's, same visits and steps.

Token ids of the lengths measured on MIMIC-III (student_visits.py); the project's side is the whole of ckd.student.train, checkpoint included.

    python -m benchmarks.student.training            # CPU: 4 layers of hidden 256, one thread; CPU seconds, medians of alternating runs
    python -m benchmarks.student.training --gpu      # one CUDA device: bert-base's geometry; under 8 minutes
    python -m benchmarks.student.training --gpu --device cpu --tiny --out /tmp/x.json   # the GPU benchmark's code on a CPU; figures mean nothing

Writes benchmarks/results/student-training-cpu.json or student-training-gpu.json.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.student import loops as student_loops
from benchmarks.student.visits import (
    LONGEST,
    SMALL,
    SMALLER,
    TINY,
    Geometry,
    Made,
    make_visits,
    write_base,
    write_cohort,
)
from benchmarks.teacher.speed import ROOT, header, target
from ckd.config import Config
from ckd.student.order import deal

ACCUMULATION = 4  # micro-batches of two visits: with a batch of 8, what deals by length
SHORTER = 8  # divides the lengths of --tiny
SMALLER_SETTINGS = {"epochs": 3, "learning_rate": 2e-3}


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    device = arguments.device or ("cuda" if arguments.gpu else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "student_training --gpu: this machine has no CUDA device; run it on one, or try its code with --gpu --device cpu --tiny",
            file=sys.stderr,
        )
        return 2
    out = arguments.out or ROOT / "benchmarks/results" / f"student-training-{'gpu' if arguments.gpu else 'cpu'}.json"
    report: dict[str, Any] = header(
        device, sys.argv[1:] if argv is None else argv, arguments.commit, "student.training"
    )

    def save() -> None:
        report["load_average_after"] = os.getloadavg()[0]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    good = True
    with tempfile.TemporaryDirectory() as folder:
        if arguments.gpu:
            from benchmarks.student.gpu import measure_gpu

            good = measure_gpu(report, Path(folder), device, arguments.tiny, arguments.seconds, arguments.limit, save)
        else:
            torch.set_num_threads(1)
            report |= {
                "threads": 1,
                "dtype": "float32",
                "batch_size": student_loops.BATCH,
                "gradient_accumulation": ACCUMULATION,
            }
            measure_cpu(report, Path(folder), arguments.tiny, arguments.visits, arguments.runs, save)
    save()
    print(f"written to {out}")
    return int(not good)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda with --gpu, else cpu")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="a tiny model and visits an eighth as long, to try the code",
    )
    parser.add_argument(
        "--visits",
        type=int,
        default=64,
        help="CPU: visits per timed run, one epoch; 4 times as many and 3 epochs at 2 layers",
    )
    parser.add_argument("--runs", type=int, default=5, help="CPU: runs of each loop")
    parser.add_argument("--seconds", type=float, default=15, help="GPU: timed seconds of each way")
    parser.add_argument("--limit", type=float, default=400, help="GPU: seconds after which no way is begun")
    parser.add_argument("--commit", help="where the checkout's git history did not travel along")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def make_config(folder: Path, base: str, seed: int = 0, gpus: float = 0, rows: int = 4096, **student: Any) -> Config:
    """A run below `folder` with the public code's batch size."""
    settings = {
        "base_model": base,
        "batch_size": student_loops.BATCH,
        "gpus_per_worker": gpus,
        "checkpoint_steps": 1 << 30,
        **student,
    }
    run = {"artifacts": str(folder / "artifacts"), "results": str(folder / "results")}
    return Config.model_validate({"run": run, "data": {"shard_rows": rows}, "student": settings, "seed": seed})


def measure_cpu(
    report: dict[str, Any], folder: Path, tiny: bool, visits: int, runs: int, save: Callable[[], None]
) -> None:
    """Speed at two geometries: at the smaller one all that is not the model's own work weighs most."""
    shorter = SHORTER if tiny else 1
    parts = {
        "speed": (SMALL, visits, {"epochs": 1, "learning_rate": 5e-4}),
        "smaller": (SMALLER, 4 * visits, SMALLER_SETTINGS),
    }
    for name, (geometry, count, settings) in parts.items():
        geometry = TINY if tiny else geometry
        made = make_visits(count, geometry.vocabulary, 1, shorter=shorter)
        compared = Compared(folder / name, geometry, made, LONGEST // shorter, settings)
        for seed in range(runs):
            compared.pair(seed)
            print(
                f"{name}, run {seed + 1} of {runs}:",
                {n: round(values[-1], 3) for n, values in compared.per_step.items()},
                flush=True,
            )
        report[name] = compared.figures()
        save()
    report["targets"] = {
        "useful samples per CPU second over the public loop": target(1.15, report["speed"]["project_over_public"])
    }
    print(f"targets: {report['targets']}")


class Compared:
    """Both loops on the same visits and global batches from the same first weights, and the CPU seconds they took."""

    def __init__(self, folder: Path, geometry: Geometry, made: Made, width: int, settings: dict[str, Any]) -> None:
        self.folder, self.geometry, self.made, self.width = folder, geometry, made, width
        self.settings = {"max_length": width, "warmup_share": 0.1, **settings}
        self.per_step: dict[str, list[float]] = {"public": [], "project": []}
        self.whole: dict[str, list[float]] = {"public": [], "project": []}
        self.base = write_base(folder / "base", geometry)
        self.loops = {"public": self._public, "project": self._project}

    def pair(self, seed: int) -> None:
        """Run both loops; which is first alternates."""
        for name in self.loops if seed % 2 == 0 else reversed(self.loops):
            self.loops[name](seed)

    def _public(self, seed: int) -> None:
        config, weights = make_config(self.folder / "run", self.base, seed, **self.settings), self.folder / "public.pt"
        steps = student_loops.Steps()
        student_loops.public(config, self.made, weights, "cpu", self.width, steps)
        self._took("public", steps)

    def _project(self, seed: int) -> None:
        config = make_config(self.folder / "run", self.base, seed, gradient_accumulation=ACCUMULATION, **self.settings)
        write_cohort(config, self.made)
        steps = student_loops.Steps()
        student_loops.project(config, steps)
        self._took("project", steps)
        shutil.rmtree(config.run.artifacts_root)

    def _took(self, name: str, steps: student_loops.Steps) -> None:
        self.per_step[name].append(steps.seconds_per_step())
        self.whole[name].append(steps.whole())

    def figures(self) -> dict[str, Any]:
        """Medians over the pairs so far."""
        middle = {name: median(values) for name, values in self.per_step.items()}
        whole = {name: median(values) for name, values in self.whole.items()}
        useful, padded = useful_share(self.made, self.width)
        return {
            "geometry": asdict(self.geometry),
            "visits": len(self.made.ids),
            "settings": self.settings,
            "mean_tokens": float(mean(map(len, self.made.ids))),
            "useful_tokens": {"public": useful, "project": padded},
            "fewer_computed_tokens": padded / useful,
            "cpu_s_per_step": {name: [round(s, 4) for s in values] for name, values in self.per_step.items()},
            "cpu_s_whole": {name: [round(s, 3) for s in values] for name, values in self.whole.items()},
            "visits_per_cpu_s": {name: student_loops.BATCH / value for name, value in middle.items()},
            "project_over_public": middle["public"] / middle["project"],
            "project_over_public_with_start_and_saving": whole["public"] / whole["project"],
        }


def useful_share(
    made: Made, width: int, batch: int = student_loops.BATCH, accumulation: int = ACCUMULATION
) -> tuple[float, float]:
    """The share of computed tokens that are no padding: padded to `width`, and dealt by length (batches of neighbours in a random order)."""
    sizes = [len(ids) for ids in made.ids]
    dealt = 0
    for start in range(0, len(sizes), batch):
        part = sizes[start : start + batch]
        dealt += sum(max(part[i] for i in slot) * len(slot) for slot in deal(part, 1, accumulation)[0] if slot)
    return sum(sizes) / (width * len(sizes)), sum(sizes) / dealt


if __name__ == "__main__":
    raise SystemExit(main())
