"""Ways from text to probabilities in one comparison: made, timed in turn, compared in speed and in what they answer."""

import time
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import FAILURES, failed, time_left
from benchmarks.report import Report, in_turn, timed
from benchmarks.student.texts import Visits
from benchmarks.student.ways import StudentWay
from benchmarks.teacher.prompts import described
from ckd.prompts import Prompter
from ckd.visits.labels import INSTRUCTION

STUDENT_LENGTH = 512  # the default of student.max_length
EQUAL = {"float32": 1e-4, "bfloat16": 0.1}  # most that a probability may differ where the same numbers are computed
FACTS = {
    "includes": "tokenising, batching, forward passes, the 25-label head, sigmoid;"
    " not: reading, writing, loading, compiling",
    "public_without": "its garbage collection per visit, whose cost grows with all that this process has imported",
    "paper": "22.2 × (the paper's, teacher over student): other hardware, another task and another way to measure;"
    " not comparable",
}
TARGETS = {"teacher": 50, "public": 500}  # --gpu: bert-base against 7B


class Contest:
    """The ways, the visits and the report of one run. A way that fails leaves its reason, and the others go on."""

    def __init__(self, report: Report, device: str, dtype: str, visits: Visits, ends: float) -> None:
        self.report, self.device, self.dtype, self.visits, self.ends = report, device, dtype, visits, ends
        self.ways: dict[str, Any] = {}
        self.texts: dict[str, list[str]] = {}
        self.answers: dict[str, np.ndarray] = {}
        self.flops: dict[str, float] = {}
        prompts = visits.prompts()
        tokens = [len(ids) for ids in visits.wordpiece(visits.inputs, verbose=False)["input_ids"]]
        whole = Prompter(visits.prompter.tokenizer, 1 << 20).encode([INSTRUCTION] * len(prompts), visits.inputs)[0]
        self.lengths = [min(n, STUDENT_LENGTH) for n in tokens]
        report |= FACTS | {"threads": torch.get_num_threads(), "teacher_dtype": dtype, "ways": {}}
        report["teacher_tokens"] = described(prompts)
        report["student_tokens"] = {
            "mean": float(np.mean(tokens)),
            "median": float(np.median(tokens)),
            "max": max(tokens),
        }
        report["text_seen"] = {
            "teacher": sum(map(len, prompts)) / sum(map(len, whole)),
            "student": sum(self.lengths) / sum(tokens),
            "student_visits_cut": float(np.mean([n > STUDENT_LENGTH for n in tokens])),
        }

    def describe(self, who: str, shape: Any, model: Any) -> None:
        """Report the size of a model."""
        self.report[f"{who}_shape"] = asdict(shape)
        self.report[f"{who}_parameters"] = sum(p.numel() for p in model.parameters())

    def add(self, name: str, make: Callable[[], Any], texts: list[str]) -> None:
        """Make a way and run it: the first passes compile and allocate. A teacher's are long, and one is enough."""
        started = time.monotonic()
        try:
            with time_left(self.ends):
                way = make()
                self.answers[name] = way(texts)
                if isinstance(way, StudentWay):
                    way(texts)
                else:
                    self.flops[name] = way.embed.take_work().flops
        except FAILURES as error:
            self.report["ways"][name] = failed(error)
            print(f"{name}: {self.report['ways'][name]['failed']}", flush=True)
            return
        prepared = time.monotonic() - started
        self.ways[name], self.texts[name] = way, texts
        figures = {"visits": len(texts), "prepare_s": prepared, "cpu_s": [], "wall_s": [], "tokenising_cpu_s": []}
        self.report["ways"][name] = figures
        print(f"{name}: ready in {prepared:.1f} s", flush=True)

    def measure(self, runs: int) -> None:
        """Every way `runs` times in turn."""
        for run in range(runs):
            for name in in_turn(self.ways, run):
                try:
                    with time_left(self.ends):
                        self._time(name)
                except FAILURES as error:
                    self.report["ways"][name] |= failed(error)
                    del self.ways[name]
            seconds = {name: round(self.report["ways"][name]["wall_s"][-1], 3) for name in self.ways}
            print(f"run {run + 1} of {runs}", seconds, flush=True)

    def _time(self, name: str) -> None:
        figures, way, texts = self.report["ways"][name], self.ways[name], self.texts[name]
        way.tokenising_s, before = 0.0, _collecting(way)
        seconds = timed(lambda: way(texts))  # ends in numpy: nothing is left on the device
        collected = _collecting(way) - before
        figures["cpu_s"].append(seconds.cpu - collected)
        figures["wall_s"].append(seconds.wall - collected)
        figures["tokenising_cpu_s"].append(way.tokenising_s)

    def compare(self) -> bool:
        """Add rates, ratios, differences and --gpu's targets; False when ways disagree or none was measured."""
        # A device's time is the wall's; a shared CPU's is the process's.
        clock = "wall_s" if self.dtype == "bfloat16" else "cpu_s"
        self.report["clock"] = clock
        ways = {name: figures for name, figures in self.report["ways"].items() if name in self.ways and figures[clock]}
        for name, figures in ways.items():
            figures["median_s"] = median(figures[clock])
            figures["visits_per_s"] = figures["visits"] / figures["median_s"]
            figures["gflop_per_visit"] = self.flops[name] / figures["visits"] / 1e9
            figures["tokenising_share"] = median(figures["tokenising_cpu_s"]) / median(figures["cpu_s"])
        best = max((n for n in ways if n.startswith("teacher")), key=lambda n: ways[n]["visits_per_s"], default=None)
        self.report["best_teacher"] = best
        for name, figures in ways.items():
            for other, peer in (("teacher", best), ("public", "public")):
                if peer in ways:
                    figures[f"speedup_over_{other}"] = figures["visits_per_s"] / ways[peer]["visits_per_s"]
                    figures[f"flops_fewer_than_{other}"] = ways[peer]["gflop_per_visit"] / figures["gflop_per_visit"]
            print(_line(name, figures))
        students = [figures for name, figures in ways.items() if name.startswith("student")]
        if self.dtype == "bfloat16":
            over = {n: max((f.get(f"speedup_over_{n}", 0.0) for f in students), default=None) for n in TARGETS}
            self.report.add_targets({f"student over {n}": (least, over[n]) for n, least in TARGETS.items()})
        return self._agree() and bool(students) and best is not None and "public" in ways

    def _agree(self) -> bool:
        """Whether ways that compute the same numbers do. int8 and bfloat16 round: their distance is only shown."""
        answers, found = self.answers, {}
        for name in answers:
            if name.startswith("student") and "student_torch" in answers:
                found[name] = float(np.abs(answers[name] - answers["student_torch"]).max())
        if "teacher" in answers and "public" in answers:
            rows = [self.texts["teacher"].index(text) for text in self.texts["public"]]
            found["teacher"] = float(np.abs(answers["teacher"][rows] - answers["public"]).max())
        self.report["largest_difference_of_probabilities"] = found
        print("largest difference of probabilities:", {name: f"{value:.1e}" for name, value in found.items()})
        exact = {name: value for name, value in found.items() if not name.endswith("int8") and "bf16" not in name}
        return all(v <= EQUAL[self.dtype if name == "teacher" else "float32"] for name, v in exact.items())


def _collecting(way: Any) -> float:
    """CPU seconds that a way has spent in garbage collections of its own."""
    return float(getattr(getattr(way, "embed", None), "collecting_s", 0.0))


def _line(name: str, figures: dict[str, Any]) -> str:
    return (
        f"{name:<24}{figures['visits_per_s']:>10.2f} visits/s  {figures['gflop_per_visit']:>9.2f} GFLOP per visit"
        f"  tokenising {figures['tokenising_share']:.3f} of the CPU time"
        f"   over the teacher {figures.get('speedup_over_teacher', 0):.2f} x"
        f"   over public {figures.get('speedup_over_public', 0):.2f} x"
    )
