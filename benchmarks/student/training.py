"""What training the student costs: the public code's loop (all padded to 512, float32, batch 8) and this project's.

Both see the same made-up visits and steps (visits.py); the project's side is the whole of ckd.student.train, checkpoint
included. Writes results/student-training-cpu.json (medians of alternating runs) or student-training-gpu.json.

    python -m benchmarks.student.training          # 4 layers of hidden 256, one thread; CPU seconds
    python -m benchmarks.student.training --gpu    # one CUDA device: bert-base's geometry; under 8 minutes
"""

import argparse
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.gpu import gpu_options, start
from benchmarks.report import Report, in_turn
from benchmarks.student import loops
from benchmarks.student.geometry import SMALL, SMALLER, TINY, Geometry
from benchmarks.student.gpu import Bench, measure_gpu
from benchmarks.student.loops import ACCUMULATION, BATCH, make_config, useful_share
from benchmarks.student.visits import LONGEST, SHORTER, Made, make_visits, write_base, write_cohort

LIMIT_S = 400.0


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    report = start("student.training", "student-training", arguments, argv)
    if report is None:
        return 2
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.gpu:
            bench = Bench(report, folder, arguments.device, arguments.tiny, arguments.seconds, arguments.limit)
            good = measure_gpu(bench)
        else:
            torch.set_num_threads(1)
            report |= {"threads": 1, "dtype": "float32", "batch_size": BATCH, "gradient_accumulation": ACCUMULATION}
            measure_cpu(report, folder, arguments.tiny, arguments.visits, arguments.runs)
    return report.finish(good)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    limit = f"GPU: seconds after which no way is started (default {LIMIT_S:.0f})"
    parser = gpu_options(__doc__, "a tiny model and visits an eighth as long", limit)
    parser.set_defaults(limit=LIMIT_S)
    visits = "CPU: visits per timed run, one epoch; 4 times as many and 3 epochs at 2 layers"
    parser.add_argument("--visits", type=int, default=64, help=visits)
    parser.add_argument("--runs", type=int, default=5, help="CPU: runs of each loop")
    parser.add_argument("--seconds", type=float, default=15, help="GPU: timed seconds of each way")
    return parser.parse_args(argv)


def measure_cpu(report: Report, folder: Path, tiny: bool, visits: int, runs: int) -> None:
    """Speed at two geometries: at the smaller one all that is not the model's own work weighs most."""
    shorter = SHORTER if tiny else 1
    parts: dict[str, tuple[Geometry, int, dict[str, Any]]] = {
        "speed": (SMALL, visits, {"epochs": 1, "learning_rate": 5e-4}),
        "smaller": (SMALLER, 4 * visits, {"epochs": 3, "learning_rate": 2e-3}),
    }
    for name, (geometry, count, settings) in parts.items():
        geometry = TINY if tiny else geometry
        made = make_visits(count, geometry.vocabulary, 1, shorter=shorter)
        compared = Compared(folder / name, geometry, made, LONGEST // shorter, settings)
        for seed in range(runs):
            compared.pair(seed)
            last = {n: round(values[-1], 3) for n, values in compared.per_step.items()}
            print(f"{name}, run {seed + 1} of {runs}:", last, flush=True)
        report[name] = compared.figures()
        report.save()
    over = report["speed"]["project_over_public"]
    report.add_targets({"useful samples per CPU second over the public loop": (1.15, over)})


class Compared:
    """Both loops on the same visits and global batches from the same first weights, and the CPU seconds they took."""

    def __init__(self, folder: Path, geometry: Geometry, made: Made, width: int, settings: dict[str, Any]) -> None:
        self.folder, self.geometry, self.made, self.width = folder, geometry, made, width
        self.settings = {"max_length": width, "warmup_share": 0.1, **settings}
        self.loops = {"public": self._public, "project": self._project}
        self.per_step: dict[str, list[float]] = {name: [] for name in self.loops}
        self.whole: dict[str, list[float]] = {name: [] for name in self.loops}
        self.base = write_base(folder / "base", geometry)

    def pair(self, seed: int) -> None:
        """Run both loops; which is first alternates."""
        for name in in_turn(self.loops, seed):
            steps = self.loops[name](seed)
            self.per_step[name].append(steps.seconds_per_step())
            self.whole[name].append(steps.whole())
            shutil.rmtree(self.folder / "run", ignore_errors=True)

    def _public(self, seed: int) -> loops.Steps:
        config = make_config(self.folder / "run", self.base, seed, **self.settings)
        steps = loops.Steps()
        loops.public(config, self.made, self.folder / "public.pt", "cpu", self.width, steps)
        return steps

    def _project(self, seed: int) -> loops.Steps:
        config = make_config(self.folder / "run", self.base, seed, gradient_accumulation=ACCUMULATION, **self.settings)
        write_cohort(config, self.made)
        steps = loops.Steps()
        loops.project(config, steps)
        return steps

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
            "visits_per_cpu_s": {name: BATCH / value for name, value in middle.items()},
            "project_over_public": middle["public"] / middle["project"],
            "project_over_public_with_start_and_saving": whole["public"] / whole["project"],
        }


if __name__ == "__main__":
    raise SystemExit(main())
