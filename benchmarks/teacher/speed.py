"""What a teacher pass costs: the public code's way, AutoModel, batches and this project's engine, on the same prompts.

Prompts are token ids with the lengths measured on MIMIC-III (prompts.py). Writes results/teacher-cpu.json (medians of
alternating runs) or teacher-gpu.json. Ways must agree before any is timed: exit code 1 when not, or when one failed.

    python -m benchmarks.teacher.speed         # 12 layers of hidden 512, float32; CPU seconds; about 20 minutes
    python -m benchmarks.teacher.speed --gpu   # one CUDA device: Qwen2.5-7B's geometry in bfloat16; under 8 minutes
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import gpu_options, start
from benchmarks.report import ROOT, Report, in_turn, timed
from benchmarks.teacher import model as teacher_model
from benchmarks.teacher.gpu import Bench, measure_gpu
from benchmarks.teacher.prompts import SHORTER, described, make_prompts
from benchmarks.teacher.vllm_child import VllmChild, find_vllm
from benchmarks.teacher.ways import Batches, Default, OneByOne, Public
from ckd.teacher.budget import CPU_BUDGET
from ckd.teacher.matrix_rate import matrix_rate
from ckd.teacher.work import Work

EQUAL = 1e-4  # float32: the most that an embedding's number may differ from AutoModel's
LARGE_BUDGET = 8192  # a dozen visits in a batch, for comparison: its activations no longer fit into a CPU's cache
LIMIT_S = 440.0


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    report = start("teacher.speed", "teacher", arguments, argv)
    if report is None:
        return 2
    shorter = SHORTER if arguments.tiny else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.gpu:
            shape = teacher_model.TINY if arguments.tiny else teacher_model.QWEN_7B
            bench = Bench(report, arguments.device, shape, shorter, arguments.seconds, arguments.limit)
            good = measure_gpu(bench, folder)
        else:
            torch.set_num_threads(arguments.threads)
            shape = teacher_model.TINY if arguments.tiny else teacher_model.CPU
            prompts = make_prompts(arguments.prompts, shape.vocabulary, shorter=shorter)
            good = measure_cpu(report, folder, shape, prompts, arguments.runs, arguments.vllm_python)
    return report.finish(good)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    tiny = "a tiny model and prompts an eighth as long"
    limit = f"GPU: seconds after which no way is started and the one under way is stopped (default {LIMIT_S:.0f})"
    parser = gpu_options(__doc__, tiny, limit)
    parser.set_defaults(limit=LIMIT_S)
    parser.add_argument("--prompts", type=int, default=32, help="CPU: prompts per run")
    parser.add_argument("--runs", type=int, default=5, help="CPU: timed runs of each way")
    parser.add_argument("--threads", type=int, default=1, help="CPU: torch's threads")
    vllm = "CPU: a Python with vLLM (make test-vllm makes it)"
    parser.add_argument("--vllm-python", type=Path, default=ROOT / ".venv-vllm/bin/python", help=vllm)
    parser.add_argument("--seconds", type=float, default=15, help="GPU: timed seconds of each way")
    return parser.parse_args(argv)


def measure_cpu(
    report: Report, folder: Path, shape: teacher_model.Shape, prompts: list[list[int]], runs: int, vllm_python: Path
) -> bool:
    """Every way on the same prompts, `runs` times in turn; False when two ways disagree."""
    causal = teacher_model.make_model(shape, torch.float32, "cpu")
    vllm, reason = find_vllm(vllm_python, causal, folder / "model")
    ways = make_ways(causal, folder / "engine") | ({"vllm": vllm} if vllm else {})
    report |= {"threads": torch.get_num_threads(), "dtype": "float32", "shape": asdict(shape)}
    report |= {"prompts": described(prompts), "runs": runs}
    report["matrix_rate_gflops"] = (matrix_rate("cpu", "float32") or 0) / 1e9
    differences = _differences(ways, prompts)
    ways["public"].collecting_s = 0.0
    report["largest_difference_to_one_by_one"] = differences
    print("largest difference to AutoModel one by one:", {name: f"{value:.1e}" for name, value in differences.items()})
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs):
        for name in in_turn(ways, run):
            seconds[name].append(cpu_seconds(ways[name], prompts))
        print(f"run {run + 1} of {runs}:", {name: round(values[-1], 2) for name, values in seconds.items()}, flush=True)
    report["ways"] = {name: _figures(ways[name].take_work(), values, runs) for name, values in seconds.items()}
    report["ways"]["public"]["garbage_collection_cpu_s"] = ways["public"].collecting_s / runs
    if vllm:
        report["versions"]["vllm"] = vllm.version
        vllm.close()
    else:
        report["ways"]["vllm"], report["vllm_missing"] = None, reason
    _compare(report)
    return max(differences.values()) <= EQUAL


def make_ways(causal: Any, folder: Path) -> dict[str, Any]:
    """The ways that run in this process."""

    def engine(**settings: Any) -> Default:
        return Default(teacher_model.make_engine(causal, folder, "cpu", **settings))

    return {
        "public": Public(causal),
        "one_by_one": OneByOne(causal),
        "batches": Batches(causal, CPU_BUDGET),
        "default": engine(),
        f"budget {LARGE_BUDGET}": engine(token_budget=LARGE_BUDGET),
    }


def _differences(ways: dict[str, Any], prompts: list[list[int]]) -> dict[str, float]:
    wanted = ways["one_by_one"](prompts)
    found = {name: float(np.abs(way(prompts) - wanted).max()) for name, way in ways.items() if name != "one_by_one"}
    for way in ways.values():
        way.take_work()
    return found


def cpu_seconds(way: Callable[[list[list[int]]], np.ndarray], prompts: list[list[int]]) -> float:
    """CPU seconds of one call, those of a way in another process included."""
    own = timed(lambda: way(prompts)).cpu
    return own + way.cpu_s if isinstance(way, VllmChild) else own


def _figures(work: Work, seconds: list[float], runs: int) -> dict[str, Any]:
    middle, flops = median(seconds), work.flops / runs
    return {
        "cpu_s": [round(s, 3) for s in seconds],
        "median_cpu_s": round(middle, 3),
        "visits_per_cpu_s": work.prompts / runs / middle,
        **{name: getattr(work, name) // runs for name in ("tokens", "computed", "padding", "prefix_saved")},
        "tflops": flops / 1e12,
        "gflop_per_cpu_s": flops / middle / 1e9,
    }


def _compare(report: Report) -> None:
    """Adds each way's ratios and the targets to the report, and prints them."""
    ways = {name: figures for name, figures in report["ways"].items() if figures}
    public, alone = ways["public"], ways["one_by_one"]
    for name, figures in ways.items():
        figures["flops_ratio_over_public"] = public["tflops"] / figures["tflops"]
        figures["speedup_over_public"] = public["median_cpu_s"] / figures["median_cpu_s"]
        figures["speedup_over_one_by_one"] = alone["median_cpu_s"] / figures["median_cpu_s"]
        print(
            f"{name:<20} {figures['median_cpu_s']:>7.2f} CPU s  {figures['visits_per_cpu_s']:>6.2f} visits per CPU s"
            f"  {figures['tflops']:>6.2f} TFLOP  {figures['gflop_per_cpu_s']:>5.0f} GFLOP per CPU s"
            f"   over public: {figures['speedup_over_public']:.2f} x (FLOPs {figures['flops_ratio_over_public']:.2f} x)"
            f"   over one by one: {figures['speedup_over_one_by_one']:.2f} x"
        )
    default = ways["default"]
    share = default["speedup_over_public"] / default["flops_ratio_over_public"]
    # Collections grow with everything this process has imported, and are no FLOPs.
    without = share * (1 - public["garbage_collection_cpu_s"] / public["median_cpu_s"])
    report.add_targets(
        {
            "default over one by one": (1.25, default["speedup_over_one_by_one"]),
            "default over public, of the ratio of computed FLOPs": (0.9, share),
            "the same without public's garbage collections": (0.9, without),
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
