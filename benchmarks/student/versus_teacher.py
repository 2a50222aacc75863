"""How much cheaper the student's answers are than the teacher's: from text to 25 probabilities, on one device and the same visits.

The student runs as `ckd` predicts (torch), compiled, and in ONNX Runtime (float32, dynamic int8); the teacher through this project's default
engine with the shared prefix, and in the public code's way. Tokenising is included. Weights are random: speed depends on geometry and lengths
alone, and both stand in the result.

    python -m benchmarks.student.versus_teacher          # CPU, small geometries; CPU seconds, median of alternating runs; about 10 minutes
    python -m benchmarks.student.versus_teacher --gpu    # one CUDA device: bert-base against Qwen2.5-7B's geometry; under 8 minutes
    python -m benchmarks.student.versus_teacher --gpu --device cpu --tiny --out /tmp/x.json     # that code on a CPU; its figures mean nothing

Writes benchmarks/results/student-vs-teacher-cpu.json or -gpu.json; exit code 1 when ways that should agree do not, or one failed.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.student import ways as student_ways
from benchmarks.student.texts import Visits, make_visits
from benchmarks.student.ways import StudentWay, TeacherWay, make_student, student_flops, torch_logits
from benchmarks.teacher import model as teacher_model
from benchmarks.teacher.gpu import FAILURES, time_left
from benchmarks.teacher.prompts import described
from benchmarks.teacher.speed import ROOT, SHORTER, header, target
from benchmarks.teacher.ways import Default, Public
from ckd.predict.onnxfile import write_onnx
from ckd.predict.predictions import TOKEN_BUDGET
from ckd.predict.scorer import Logits, load_logits
from ckd.prompts import Prompter
from ckd.visits.labels import INSTRUCTION

TEACHER_LENGTH, STUDENT_LENGTH = 1536, 512  # the defaults of teacher.max_length and student.max_length
EQUAL = {"float32": 1e-4, "bfloat16": 0.1}  # most that a probability may differ where the same numbers are computed
PAPER = "22.2 × (the paper's, teacher over student): other hardware, another task and another way to measure; not comparable"
TARGETS = {"teacher": 50, "public": 500}  # --gpu: bert-base against 7B


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    tiny, gpu = arguments.tiny, arguments.gpu
    device = arguments.device or ("cuda" if gpu else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "student_vs_teacher --gpu: this machine has no CUDA device; try its code with --gpu --device cpu --tiny",
            file=sys.stderr,
        )
        return 2
    out = arguments.out or ROOT / "benchmarks/results" / f"student-vs-teacher-{'gpu' if gpu else 'cpu'}.json"
    report = header(device, sys.argv[1:] if argv is None else argv, arguments.commit, "student.versus_teacher")
    if not gpu:
        report["versions"]["onnxruntime"] = version("onnxruntime")
        torch.set_num_threads(arguments.threads)
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # ONNX Runtime's, through ckd.predict.scorer
        os.environ.setdefault(
            "TOKENIZERS_PARALLELISM", "false"
        )  # one core; a GPU's machine tokenises with all of its cores
    shape = (
        replace(teacher_model.TINY, vocabulary=16_384) if tiny else teacher_model.QWEN_7B if gpu else teacher_model.CPU
    )
    student = student_ways.TINY if tiny else student_ways.BERT_BASE if gpu else student_ways.CPU
    visits = make_visits(arguments.visits or (512 if gpu else 16), TEACHER_LENGTH, SHORTER if tiny else 1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            report, device, "bfloat16" if gpu else "float32", visits, Path(folder), time.monotonic() + arguments.limit
        )
        bench.add_students(student, compiled=not tiny, half=gpu)
        gc.freeze()  # else the public way's collections, which are taken off its time, would take most of this benchmark's
        bench.add_teachers(shape, compiled=gpu and not tiny)
        bench.measure(arguments.runs)
        gc.unfreeze()
    good = bench.compare()
    report["load_average_after"] = os.getloadavg()[0]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")
    return int(not good)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda with --gpu, else cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny models and shorter visits, to try the code")
    parser.add_argument("--visits", type=int, help="default: 16, with --gpu 512")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each way, in turn")
    parser.add_argument("--threads", type=int, default=1, help="CPU: threads")
    parser.add_argument(
        "--limit",
        type=float,
        default=None,
        help="seconds after which the way under way is stopped (default: 440 with --gpu)",
    )
    parser.add_argument("--commit", help="where the checkout's git history did not travel along")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    arguments.limit = arguments.limit if arguments.limit is not None else 440 if arguments.gpu else 3600
    return arguments


class Bench:
    """The ways, the visits and the report of one run. A way that fails leaves its reason, and the others go on."""

    def __init__(
        self, report: dict[str, Any], device: str, dtype: str, visits: Visits, folder: Path, ends: float
    ) -> None:
        self.report, self.device, self.dtype, self.visits, self.folder, self.ends = (
            report,
            device,
            dtype,
            visits,
            folder,
            ends,
        )
        self.ways: dict[str, Any] = {}
        self.texts: dict[str, list[str]] = {}
        self.answers: dict[str, np.ndarray] = {}
        self.flops: dict[str, float] = {}
        prompts, wordpieces = (
            visits.prompts(),
            [len(ids) for ids in visits.wordpiece(visits.inputs, verbose=False)["input_ids"]],
        )
        whole = Prompter(visits.prompter.tokenizer, 1 << 20).encode([INSTRUCTION] * len(prompts), visits.inputs)[0]
        self.seen = [min(n, STUDENT_LENGTH) for n in wordpieces]
        report |= {
            "threads": torch.get_num_threads(),
            "teacher_dtype": dtype,
            "includes": "tokenising, batching, forward passes, the 25-label head, sigmoid; not: reading, writing, loading, compiling",
            "public_without": "its garbage collection per visit, whose cost grows with all that this process has imported",
            "teacher_tokens": described(prompts),
            "student_tokens": {
                "mean": float(np.mean(wordpieces)),
                "median": float(np.median(wordpieces)),
                "max": max(wordpieces),
            },
            "text_seen": {
                "teacher": sum(map(len, prompts)) / sum(map(len, whole)),
                "student": sum(self.seen) / sum(wordpieces),
                "student_visits_cut": float(np.mean([n > STUDENT_LENGTH for n in wordpieces])),
            },
            "paper": PAPER,
            "ways": {},
        }

    def add_students(self, shape: student_ways.StudentShape, compiled: bool, half: bool) -> None:
        """Every way to run the student; torch in float32 is what `ckd` does and what the others must agree with."""
        self.report["student_shape"] = asdict(shape)
        model = make_student(shape)
        self.report["student_parameters"] = sum(p.numel() for p in model.parameters())
        model.save_pretrained(self.folder / "student")
        if not half:
            write_onnx(model, str(self.folder / "student"))
        model.to(self.device)

        def add(name: str, make: Callable[[], Logits], budget: int = TOKEN_BUDGET) -> None:
            self.flops[name] = student_flops(shape, self.seen, budget)
            self._add(name, lambda: StudentWay(self.visits.wordpiece, STUDENT_LENGTH, make()), self.visits.inputs)

        local, gpus = str(self.folder / "student"), float(self.device == "cuda")
        add("student_torch", lambda: load_logits(local, "torch", gpus))
        if compiled:
            add(
                "student_compiled", lambda: torch_logits(torch.compile(model, dynamic=True), self.device, torch.float32)
            )
        if half:
            add("student_bf16", lambda: torch_logits(model, self.device, torch.bfloat16))
        if half and compiled:
            add(
                "student_bf16_compiled",
                lambda: torch_logits(torch.compile(model, dynamic=True), self.device, torch.bfloat16),
            )
        if half:
            self.report["onnx_missing"] = "ckd runs ONNX Runtime on CPUs only"
            return
        add("student_onnx", lambda: load_logits(local, "onnx"))
        add("student_onnx_int8", lambda: load_logits(local, "onnx-int8"), 1)

    def add_teachers(self, shape: teacher_model.Shape, compiled: bool) -> None:
        """The engine without an adapter, which is what a merged one costs: the teacher at its quickest. Public gets every eighth of many visits."""
        self.report["teacher_shape"] = asdict(shape)
        causal = teacher_model.make_model(shape, getattr(torch, self.dtype), self.device)
        self.report["teacher_parameters"] = sum(p.numel() for p in causal.parameters())
        engine = teacher_model.make_engine(causal, self.folder / "engine", self.device)
        self.report["token_budget"] = engine.budget
        by_length = sorted(self.visits.inputs, key=len)
        few = by_length[4::8] if len(by_length) >= 64 else self.visits.inputs
        prompter = self.visits.prompter
        self._add("public", lambda: TeacherWay(prompter, Public(causal), alone=True), few)
        self._add("teacher", lambda: TeacherWay(prompter, Default(engine)), self.visits.inputs)
        if compiled:
            settings = {"token_budget": engine.budget, "compile": True}
            self._add(
                "teacher_compiled",
                lambda: TeacherWay(
                    prompter,
                    Default(teacher_model.make_engine(causal, self.folder / "engine", self.device, **settings)),
                ),
                self.visits.inputs,
            )

    def _add(self, name: str, make: Callable[[], Any], texts: list[str]) -> None:
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
            self.report["ways"][name] = _failed(error)
            print(f"{name}: {self.report['ways'][name]['failed']}", flush=True)
            return
        self.ways[name], self.texts[name] = way, texts
        self.report["ways"][name] = {
            "visits": len(texts),
            "prepare_s": time.monotonic() - started,
            "cpu_s": [],
            "wall_s": [],
            "tokenising_cpu_s": [],
        }
        print(f"{name}: ready in {time.monotonic() - started:.1f} s", flush=True)

    def measure(self, runs: int) -> None:
        """Every way `runs` times in turn; each is first, last and in between."""
        for run in range(runs):
            names = [*self.ways]
            first = run % len(names) if names else 0
            for name in names[first:] + names[:first]:
                figures, way = self.report["ways"][name], self.ways[name]
                try:
                    with time_left(self.ends):
                        way.tokenising_s, started, cpu = 0.0, time.perf_counter(), time.process_time()
                        collected = collecting(way)
                        way(self.texts[name])  # ends in numpy: nothing is left on the device
                        collected = collecting(way) - collected
                        figures["cpu_s"].append(time.process_time() - cpu - collected)
                        figures["wall_s"].append(time.perf_counter() - started - collected)
                        figures["tokenising_cpu_s"].append(way.tokenising_s)
                except FAILURES as error:
                    figures |= _failed(error)
                    del self.ways[name]
            print(
                f"run {run + 1} of {runs}",
                {name: round(self.report["ways"][name]["wall_s"][-1], 3) for name in self.ways},
                flush=True,
            )

    def compare(self) -> bool:
        """Adds rates, ratios, differences and --gpu's targets to the report; False when ways disagree or none was measured."""
        clock = (
            "wall_s" if self.report["teacher_dtype"] == "bfloat16" else "cpu_s"
        )  # a device's time is the wall's; a shared CPU's is the process's
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
        if self.report["teacher_dtype"] == "bfloat16":
            over = {
                other: max((f.get(f"speedup_over_{other}", 0.0) for f in students), default=None) for other in TARGETS
            }
            self.report["targets"] = {
                f"student over {other}": target(least, over[other]) for other, least in TARGETS.items()
            }
            print(self.report["targets"])
        return self._agree() and bool(students) and best is not None and "public" in ways

    def _agree(self) -> bool:
        """Whether ways that compute the same numbers do; int8 and bfloat16 round, and their distance is only told."""
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
        return all(
            value <= (EQUAL[self.dtype] if name == "teacher" else EQUAL["float32"]) for name, value in exact.items()
        )


def collecting(way: Any) -> float:
    """CPU seconds that a way has spent in garbage collections of its own."""
    return float(getattr(getattr(way, "embed", None), "collecting_s", 0.0))


def _failed(error: BaseException) -> dict[str, str]:
    return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _line(name: str, figures: dict[str, Any]) -> str:
    return (
        f"{name:<24}{figures['visits_per_s']:>10.2f} visits/s  {figures['gflop_per_visit']:>9.2f} GFLOP per visit  tokenising"
        f" {figures['tokenising_share']:.3f} of the CPU time   over the teacher {figures.get('speedup_over_teacher', 0):.2f} x"
        f"   over public {figures.get('speedup_over_public', 0):.2f} x"
    )


if __name__ == "__main__":
    raise SystemExit(main())
