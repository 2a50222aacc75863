"""What `teacher.merge_adapter` gains and what it costs in accuracy, on a CPU: the project's engine with a LoRA adapter unmerged and merged, in turn,
on the model and prompts of benchmarks/teacher/speed.py. One GPU's figures are in that benchmark's --gpu half.

    python -m benchmarks.teacher.merge      # about 10 minutes; writes benchmarks/results/teacher-merge-cpu.json
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.teacher import model as teacher_model
from benchmarks.teacher.prompts import described, make_prompts
from benchmarks.teacher.speed import ROOT, cpu_seconds, header
from benchmarks.teacher.ways import Default


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model and prompts an eighth as long, to try the code"
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/teacher-merge-cpu.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    shape = teacher_model.TINY if arguments.tiny else teacher_model.CPU
    prompts = make_prompts(arguments.prompts, shape.vocabulary, shorter=8 if arguments.tiny else 1)
    report = header("cpu", sys.argv[1:] if argv is None else argv, None, "teacher_merge")
    report |= {
        "shape": asdict(shape),
        "prompts": described(prompts),
        "adapter": "LoRA rank 8 on all projections, random",
        "threads": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(shape, torch.float32, Path(folder))
        report["gain"] = _gain(ways, prompts, arguments.runs)
        report["error_float32"] = _error(ways, prompts)
        report["error_bfloat16"] = _error(_ways(shape, torch.bfloat16, Path(folder)), prompts[:4])
    for name in ("gain", "error_float32", "error_bfloat16"):
        print(name, report[name])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _ways(shape: teacher_model.Shape, dtype: torch.dtype, folder: Path) -> dict[str, Default]:
    """The engine without an adapter, with it unmerged and merged; three copies of one model, since an adapter becomes part of its model."""
    models = [teacher_model.make_model(shape, dtype, "cpu") for _ in range(3)]
    adapter = teacher_model.write_adapter(folder / "adapter", models[0], folder / "engine")
    settings: list[dict[str, Any]] = [{}, {"adapter": adapter}, {"adapter": adapter, "merge_adapter": True}]
    engines = [
        teacher_model.make_engine(model, folder / "engine", "cpu", **given)
        for model, given in zip(models, settings, strict=True)
    ]
    return dict(zip(("without", "unmerged", "merged"), map(Default, engines), strict=True))


def _gain(ways: dict[str, Default], prompts: list[list[int]], runs: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs):
        for name in [*ways][run % 3 :] + [*ways][: run % 3]:
            seconds[name].append(round(cpu_seconds(ways[name], prompts), 3))
    return {"cpu_s": seconds, "unmerged_over_merged": median(seconds["unmerged"]) / median(seconds["merged"])}


def _error(ways: dict[str, Default], prompts: list[list[int]]) -> dict[str, float]:
    """Distances of all embeddings, relative to their length: what merging changes beside what the adapter changes."""
    without, unmerged, merged = (way(prompts) for way in ways.values())
    return {
        "merging": float(np.linalg.norm(merged - unmerged) / np.linalg.norm(unmerged)),
        "adapter": float(np.linalg.norm(unmerged - without) / np.linalg.norm(unmerged)),
    }


if __name__ == "__main__":
    raise SystemExit(main())
