"""What one teacher pass costs: the public code's way, AutoModel, batches, and this project's engine, on the same random model and prompts.

Prompts are token ids with the lengths measured on MIMIC-III (teacher_prompts.py); all ways must agree before any is timed.

    python -m benchmarks.teacher.speed             # CPU: 12 layers of hidden 512, float32; CPU seconds, median of alternating runs; about 20 minutes
    python -m benchmarks.teacher.speed --gpu       # one CUDA device: Qwen2.5-7B's geometry in bfloat16; under 8 minutes
    python -m benchmarks.teacher.speed --gpu --device cpu --tiny --out /tmp/x.json     # the GPU benchmark's code on a CPU; its figures mean nothing

Writes benchmarks/results/teacher-cpu.json or teacher-gpu.json; exit code 1 when ways disagree or one failed.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.teacher import model as teacher_model
from benchmarks.teacher.prompts import described, make_prompts
from benchmarks.teacher.vllm_child import VllmChild, find_vllm
from benchmarks.teacher.ways import Batches, Default, OneByOne, Public
from ckd.teacher.budget import CPU_BUDGET
from ckd.teacher.matrix_rate import matrix_rate
from ckd.teacher.work import Work

ROOT = Path(__file__).resolve().parents[2]
EQUAL = 1e-4  # float32: the most that an embedding's number may differ from AutoModel's
LARGE_BUDGET = 8192  # a dozen visits in a batch, for comparison: its activations no longer fit into a CPU's cache
SHORTER = 8  # divides the prompts of --tiny


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    tiny, gpu = arguments.tiny, arguments.gpu
    device = arguments.device or ("cuda" if gpu else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "teacher --gpu: this machine has no CUDA device; run it on one, or try its code with --gpu --device cpu --tiny",
            file=sys.stderr,
        )
        return 2
    out = arguments.out or ROOT / "benchmarks" / "results" / ("teacher-gpu.json" if gpu else "teacher-cpu.json")
    report: dict[str, Any] = header(device, sys.argv[1:] if argv is None else argv, arguments.commit)

    def save() -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        if gpu:
            from benchmarks.teacher.gpu import measure_gpu

            shape = teacher_model.TINY if tiny else teacher_model.QWEN_7B
            good = measure_gpu(
                report, Path(folder), shape, device, SHORTER if tiny else 1, arguments.seconds, arguments.limit, save
            )
        else:
            torch.set_num_threads(arguments.threads)
            shape = teacher_model.TINY if tiny else teacher_model.CPU
            prompts = make_prompts(arguments.prompts, shape.vocabulary, shorter=SHORTER if tiny else 1)
            good = measure_cpu(report, Path(folder), shape, prompts, arguments.runs, arguments.vllm_python)
    report["load_average_after"] = os.getloadavg()[0]
    save()
    print(f"written to {out}")
    return int(not good)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda with --gpu, else cpu")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model and prompts an eighth as long, to try the code"
    )
    parser.add_argument("--prompts", type=int, default=32, help="CPU: prompts per run")
    parser.add_argument("--runs", type=int, default=5, help="CPU: timed runs of each way")
    parser.add_argument("--threads", type=int, default=1, help="CPU: torch's threads")
    parser.add_argument(
        "--vllm-python",
        type=Path,
        default=ROOT / ".venv-vllm/bin/python",
        help="CPU: a Python with vLLM (make test-vllm makes it)",
    )
    parser.add_argument("--seconds", type=float, default=15, help="GPU: timed seconds of each way")
    parser.add_argument(
        "--limit",
        type=float,
        default=440,
        help="GPU: seconds after which no way is begun and the one under way is stopped",
    )
    parser.add_argument("--commit", help="where the checkout's git history did not travel along")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def header(device: str, argv: list[str], commit: str | None, module: str = "teacher.speed") -> dict[str, Any]:
    """Where, when and by what a result was made."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "command": f"python -m benchmarks.{module} {shlex.join(argv)}".strip(),
        "commit": commit or _git("rev-parse", "HEAD"),
        "changed_since": _git("status", "--porcelain", "--", "ckd", "benchmarks/*.py"),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{names[0] if names else platform.processor()}, {len(names)} cores",
        "versions": teacher_model.versions(),
        "load_average": os.getloadavg()[0],
    }


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def measure_cpu(
    report: dict[str, Any],
    folder: Path,
    shape: teacher_model.Shape,
    prompts: list[list[int]],
    runs: int,
    vllm_python: Path,
) -> bool:
    """Every way on the same prompts, `runs` times in turn; False when two ways disagree."""
    causal = teacher_model.make_model(shape, torch.float32, "cpu")
    vllm, reason = find_vllm(vllm_python, causal, folder / "model")
    ways: dict[str, Any] = {
        "public": Public(causal),
        "one_by_one": OneByOne(causal),
        "batches": Batches(causal, CPU_BUDGET),
        "default": Default(teacher_model.make_engine(causal, folder / "engine", "cpu")),
        f"budget {LARGE_BUDGET}": Default(
            teacher_model.make_engine(causal, folder / "engine", "cpu", token_budget=LARGE_BUDGET)
        ),
        **({"vllm": vllm} if vllm else {}),
    }
    report |= {
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "shape": asdict(shape),
        "prompts": described(prompts),
        "runs": runs,
    }
    report["matrix_rate_gflops"] = (matrix_rate("cpu", "float32") or 0) / 1e9
    differences = _differences(ways, prompts)
    ways["public"].collecting_s = 0.0
    report["largest_difference_to_one_by_one"] = differences
    print("largest difference to AutoModel one by one:", {name: f"{value:.1e}" for name, value in differences.items()})
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs):
        names = [*ways][run % len(ways) :] + [*ways][: run % len(ways)]  # each way is first, last and in between
        for name in names:
            seconds[name].append(cpu_seconds(ways[name], prompts))
        print(f"run {run + 1} of {runs}:", {name: round(values[-1], 2) for name, values in seconds.items()}, flush=True)
    report["ways"] = {name: _figures(ways[name].take_work(), values, runs) for name, values in seconds.items()}
    report["ways"]["public"]["garbage_collection_cpu_s"] = ways["public"].collecting_s / runs
    if vllm:
        report["versions"]["vllm"] = vllm.version
        vllm.close()
    else:
        report["ways"]["vllm"] = None
        report["vllm_missing"] = reason
    _compare(report)
    return max(differences.values()) <= EQUAL


def _differences(ways: dict[str, Any], prompts: list[list[int]]) -> dict[str, float]:
    wanted = ways["one_by_one"](prompts)
    found = {name: float(np.abs(way(prompts) - wanted).max()) for name, way in ways.items() if name != "one_by_one"}
    for way in ways.values():
        way.take_work()
    return found


def cpu_seconds(way: Callable[[list[list[int]]], np.ndarray], prompts: list[list[int]]) -> float:
    """CPU seconds of one call, those of a way in another process included."""
    started = time.process_time()
    way(prompts)
    own = time.process_time() - started
    return own + way.cpu_s if isinstance(way, VllmChild) else own


def _figures(work: Work, seconds: list[float], runs: int) -> dict[str, Any]:
    middle, flops = median(seconds), work.flops / runs
    return {
        "cpu_s": [round(s, 3) for s in seconds],
        "median_cpu_s": round(middle, 3),
        "visits_per_cpu_s": work.prompts / runs / middle,
        "tokens": work.tokens // runs,
        "computed": work.computed // runs,
        "padding": work.padding // runs,
        "prefix_saved": work.prefix_saved // runs,
        "tflops": flops / 1e12,
        "gflop_per_cpu_s": flops / middle / 1e9,
    }


def _compare(report: dict[str, Any]) -> None:
    """Adds each way's ratios and the targets to the report, and prints them."""
    ways = {name: figures for name, figures in report["ways"].items() if figures}
    public, alone = ways["public"], ways["one_by_one"]
    for name, figures in ways.items():
        figures["flops_ratio_over_public"] = public["tflops"] / figures["tflops"]
        figures["speedup_over_public"] = public["median_cpu_s"] / figures["median_cpu_s"]
        figures["speedup_over_one_by_one"] = alone["median_cpu_s"] / figures["median_cpu_s"]
        print(
            f"{name:<20} {figures['median_cpu_s']:>7.2f} CPU s  {figures['visits_per_cpu_s']:>6.2f} visits per CPU s  {figures['tflops']:>6.2f} TFLOP"
            f"  {figures['gflop_per_cpu_s']:>5.0f} GFLOP per CPU s   over public: {figures['speedup_over_public']:.2f} x"
            f" (FLOPs {figures['flops_ratio_over_public']:.2f} x)   over one by one: {figures['speedup_over_one_by_one']:.2f} x"
        )
    default = ways["default"]
    share = default["speedup_over_public"] / default["flops_ratio_over_public"]
    report["targets"] = {
        "default over one by one": target(1.25, default["speedup_over_one_by_one"]),
        "default over public, of the ratio of computed FLOPs": target(0.9, share),
        # Collections grow with everything this process has imported, and are no FLOPs.
        "the same without public's garbage collections": target(
            0.9, share * (1 - public["garbage_collection_cpu_s"] / public["median_cpu_s"])
        ),
    }
    for name, figures in report["targets"].items():
        print(f"{name}: {figures}")


def target(least: float, measured: float | None) -> dict[str, float | bool | None]:
    """A target beside what was measured."""
    return {"target": least, "measured": measured, "met": measured is not None and measured >= least}


if __name__ == "__main__":
    raise SystemExit(main())
