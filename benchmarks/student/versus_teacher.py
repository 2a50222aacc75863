"""How much cheaper the student's answers are than the teacher's: from text to 25 probabilities, on the same visits.

The student runs as `ckd` predicts (torch), compiled, and in ONNX Runtime (float32, dynamic int8); the teacher through
this project's default engine, and in the public code's way. Weights are random: speed depends only on geometry and
lengths. Writes results/student-vs-teacher-cpu.json or -gpu.json (medians of alternating runs); exit code 1 when ways
that should agree do not, or one failed.

    python -m benchmarks.student.versus_teacher          # small geometries; CPU seconds; about 10 minutes
    python -m benchmarks.student.versus_teacher --gpu    # one CUDA device: bert-base and Qwen2.5-7B; under 8 minutes
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import gpu_options, start
from benchmarks.report import versions
from benchmarks.student import ways
from benchmarks.student.contest import STUDENT_LENGTH, Contest
from benchmarks.student.geometry import BERT_BASE, Geometry
from benchmarks.student.texts import make_visits
from benchmarks.student.ways import StudentWay, TeacherWay, make_student, student_flops, torch_logits
from benchmarks.teacher import model as teacher_model
from benchmarks.teacher.prompts import SHORTER
from benchmarks.teacher.ways import Default, Public
from ckd.predict.onnxfile import write_onnx
from ckd.predict.scorer import TOKEN_BUDGET, Logits, load_logits

TEACHER_LENGTH = 1536  # the default of teacher.max_length
LIMIT_S = 440.0


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    tiny, gpu = arguments.tiny, arguments.gpu
    report = start("student.versus_teacher", "student-vs-teacher", arguments, argv)
    if report is None:
        return 2
    if not gpu:
        report["versions"] |= versions("onnxruntime")
        torch.set_num_threads(arguments.threads)
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # ONNX Runtime's, through ckd.predict.scorer
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one core; with a GPU all cores tokenise
    shape = teacher_model.QWEN_7B if gpu else teacher_model.CPU
    shape = replace(teacher_model.TINY, vocabulary=16_384) if tiny else shape
    student = ways.TINY if tiny else BERT_BASE if gpu else ways.CPU
    visits = make_visits(arguments.visits or (512 if gpu else 16), TEACHER_LENGTH, SHORTER if tiny else 1)
    with tempfile.TemporaryDirectory() as name:
        folder, dtype = Path(name), "bfloat16" if gpu else "float32"
        contest = Contest(report, arguments.device, dtype, visits, time.monotonic() + arguments.limit)
        add_students(contest, student, folder, compiled=not tiny)
        gc.freeze()  # else the public way's collections, which are taken off its time, would take most of it
        add_teachers(contest, shape, folder, compiled=gpu and not tiny)
        contest.measure(arguments.runs)
        gc.unfreeze()
    return report.finish(contest.compare())


def _parse(argv: list[str] | None) -> argparse.Namespace:
    limit = f"seconds after which the way under way is stopped (default: {LIMIT_S:.0f} with --gpu)"
    parser = gpu_options(__doc__, "tiny models and shorter visits", limit)
    parser.add_argument("--visits", type=int, help="default: 16, with --gpu 512")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each way, in turn")
    parser.add_argument("--threads", type=int, default=1, help="CPU: threads")
    arguments = parser.parse_args(argv)
    if arguments.limit is None:
        arguments.limit = LIMIT_S if arguments.gpu else 3600.0
    return arguments


def add_students(contest: Contest, shape: Geometry, folder: Path, compiled: bool) -> None:
    """Every way to run the student. torch in float32 is what `ckd` does and what the others must agree with."""
    device, half = contest.device, contest.dtype == "bfloat16"
    model = make_student(shape)
    contest.describe("student", shape, model)
    local, gpus = str(folder / "student"), float(device == "cuda")
    model.save_pretrained(local)
    if not half:
        write_onnx(model, local)
    model.to(device)

    def add(name: str, make: Callable[[], Logits], budget: int = TOKEN_BUDGET) -> None:
        contest.flops[name] = student_flops(shape, contest.lengths, budget)
        visits = contest.visits
        contest.add(name, lambda: StudentWay(visits.wordpiece, STUDENT_LENGTH, make()), visits.inputs)

    def add_compiled(name: str, dtype: torch.dtype) -> None:
        if compiled:
            add(name, lambda: torch_logits(torch.compile(model, dynamic=True), device, dtype))

    add("student_torch", lambda: load_logits(local, "torch", gpus))
    add_compiled("student_compiled", torch.float32)
    if half:
        add("student_bf16", lambda: torch_logits(model, device, torch.bfloat16))
        add_compiled("student_bf16_compiled", torch.bfloat16)
        contest.report["onnx_missing"] = "ckd runs ONNX Runtime on CPUs only"
        return
    add("student_onnx", lambda: load_logits(local, "onnx"))
    add("student_onnx_int8", lambda: load_logits(local, "onnx-int8"), 1)


def add_teachers(contest: Contest, shape: teacher_model.Shape, folder: Path, compiled: bool) -> None:
    """The teacher at its quickest: without an adapter, which is what a merged one costs.

    The public way gets every eighth of many visits.
    """
    causal = teacher_model.make_model(shape, getattr(torch, contest.dtype), contest.device)
    contest.describe("teacher", shape, causal)

    def make_engine(**settings: Any) -> Any:
        return teacher_model.make_engine(causal, folder / "engine", contest.device, **settings)

    engine, prompter, inputs = make_engine(), contest.visits.prompter, contest.visits.inputs
    contest.report["token_budget"] = engine.budget
    few = sorted(inputs, key=len)[4::8] if len(inputs) >= 64 else inputs
    contest.add("public", lambda: TeacherWay(prompter, Public(causal), alone=True), few)
    contest.add("teacher", lambda: TeacherWay(prompter, Default(engine)), inputs)
    if compiled:
        settings = {"token_budget": engine.budget, "compile": True}
        contest.add("teacher_compiled", lambda: TeacherWay(prompter, Default(make_engine(**settings))), inputs)


if __name__ == "__main__":
    raise SystemExit(main())
