"""The GPU half of the teacher benchmark: each way for some seconds on fresh prompts, on one random 7B model.

A way that fails or finds no time leaves its reason in the report, and the others go on.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import FAILURES, failed, time_left
from benchmarks.report import Report
from benchmarks.teacher import model as teacher_model
from benchmarks.teacher.prompts import described, make_prompts
from benchmarks.teacher.ways import Batches, Default, OneByOne, Public, cosines
from ckd.teacher.matrix_rate import matrix_rate

CHUNK = 512  # prompts per call, what `ckd embed` gives its engine at a time
ALONE = 32  # per call of the ways that take one at a time
WARM = 64
AGREES = 0.99  # least cosine to AutoModel one by one; bfloat16 rounds in each of 28 layers, a mistake is far below


class Bench:
    """One benchmark run: its report, its clock, and the prompts. `shorter` divides their lengths."""

    def __init__(
        self, report: Report, device: str, shape: teacher_model.Shape, shorter: int, seconds: float, limit: float
    ) -> None:
        self.report, self.device, self.shape, self.shorter, self.seconds = report, device, shape, shorter, seconds
        self.ends = time.monotonic() + limit
        self.chunk, self.alone, checked = (CHUNK, ALONE, 16) if shorter == 1 else (8, 2, 3)
        self.check = self.prompts(checked, 10_000)
        self.wanted: np.ndarray | None = None
        self.vectors: dict[str, np.ndarray] = {}

    def prompts(self, count: int, seed: int) -> list[list[int]]:
        return make_prompts(count, self.shape.vocabulary, seed, self.shorter)

    def model(self) -> Any:
        """The model in the device's memory; the same weights at every call."""
        return teacher_model.make_model(self.shape, torch.bfloat16, self.device)

    def engine(self, causal: Any, folder: Path, **settings: Any) -> Default:
        """The project's engine on it."""
        return Default(teacher_model.make_engine(causal, folder / "engine", self.device, **settings))

    def add(self, name: str, make: Callable[[], Any], alone: bool = False) -> None:
        """Make a way, check and time it; its figures, or the reason why there are none, go into the report."""
        ways, started = self.report["ways"], time.monotonic()
        try:
            with time_left(self.ends):
                ways[name] = self._measure(name, make(), self.alone if alone else self.chunk, started)
        except FAILURES as error:
            ways[name] = failed(error)
        print(f"{name:<28} {_line(ways[name])}", flush=True)
        self.report.save()

    def _measure(self, name: str, way: Any, chunk: int, started: float) -> dict[str, Any]:
        self.vectors[name] = way(self.check)
        self.wanted = self.vectors[name] if self.wanted is None else self.wanted
        way(self.prompts(min(chunk, WARM), 9_999))
        self._wait()
        way.take_work()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        prepared, timed_from, calls = time.monotonic() - started, time.monotonic(), 0
        while not calls or time.monotonic() - timed_from < self.seconds:
            way(self.prompts(chunk, calls))
            calls += 1
        self._wait()
        cosine = float(cosines(self.vectors[name], self.wanted).min())
        return self._figures(way, time.monotonic() - timed_from, prepared, cosine)

    def _figures(self, way: Any, wall: float, prepared: float, cosine: float) -> dict[str, Any]:
        work = way.take_work()
        return {
            "visits_per_s": work.prompts / wall,
            "useful_tokens_per_s": work.tokens / wall,
            "computed_tokens_per_s": work.computed / wall,
            # On the tokens really computed, padding among them.
            "of_matrix_rate": work.flops / wall / self.report["matrix_rate_flops"],
            "padding_share": work.padding / work.computed,
            "prefix_share": work.prefix_saved / work.tokens,
            "busy_share": work.busy_s / wall or None,  # of the engine's device clock; the other ways keep none
            "least_cosine": cosine,
            "agrees": cosine >= AGREES,
            "wall_s": wall,
            "prepare_s": prepared,  # making, checking and warming up; compilation too
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None,
            "work": asdict(work),
        }

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure_gpu(bench: Bench, folder: Path) -> bool:
    """Fill the report, way by way; False when one disagrees or failed. On a CPU nothing is compiled, for time."""
    report = bench.report
    rate = matrix_rate(bench.device, "bfloat16")
    if rate is None:
        raise MemoryError("the device has no room for two small matrices: something else fills it")
    report |= {"dtype": "bfloat16", "adapter": "LoRA rank 8 on all projections, random", "shape": asdict(bench.shape)}
    report |= {"matrix_rate_flops": rate, "prompts": described(bench.prompts(bench.chunk, 0)), "ways": {}}
    print(f"{report['device']}: {rate / 1e12:.3g} TFLOP/s in a square bfloat16 product")
    with torch.compiler.set_stance("force_eager" if bench.device == "cpu" else "default"):
        causal = bench.model()
        adapter = teacher_model.write_adapter(folder / "adapter", causal, folder / "engine")
        bare = OneByOne(causal)(bench.check)
        budget = _with_adapter(bench, causal, folder, adapter)
        del causal
        if bench.device == "cuda":
            torch.cuda.empty_cache()
        _merged(bench, folder, adapter, budget)
    report["merge"] = _merge_error(bench, bare)
    _add_targets(report)
    return all(figures.get("agrees", False) for figures in report["ways"].values())


def _with_adapter(bench: Bench, causal: Any, folder: Path, adapter: str) -> int:
    """All ways with the adapter unmerged; returns the token budget that the engine found."""
    # The engine puts the adapter into the model that all ways share, by its own code.
    first = bench.engine(causal, folder, adapter=adapter)
    budget: int = first.engine.budget
    bench.report["token_budget"] = budget
    bench.add("one_by_one", lambda: OneByOne(causal), alone=True)
    bench.add("public", lambda: Public(causal), alone=True)
    bench.add("batches", lambda: Batches(causal, budget))
    bench.add("default", lambda: first)
    bench.add("default_compiled", lambda: bench.engine(causal, folder, token_budget=budget, compile=True))
    adapters = [p for name, p in causal.named_parameters() if "lora_" in name]
    bench.report["adapter_dtype"] = str(adapters[0].dtype).removeprefix("torch.")
    if adapters[0].dtype != torch.bfloat16:  # PEFT widens adapters of half-precision models unless it is told not to
        for weight in adapters:
            weight.data = weight.data.to(torch.bfloat16)
        bench.add("default_bf16_adapter", lambda: bench.engine(causal, folder, token_budget=budget))
    return budget


def _merged(bench: Bench, folder: Path, adapter: str, budget: int) -> None:
    """The engine with teacher.merge_adapter=true, on the same weights made anew."""
    causal, settings = bench.model(), {"token_budget": budget}
    bench.add("default_merged", lambda: bench.engine(causal, folder, adapter=adapter, merge_adapter=True, **settings))
    bench.add("default_merged_compiled", lambda: bench.engine(causal, folder, compile=True, **settings))


def _merge_error(bench: Bench, bare: np.ndarray) -> dict[str, float] | None:
    """How far merging moves embeddings, beside the adapter's effect and that of batches; relative to their length."""
    merged, default, wanted = (bench.vectors.get(name) for name in ("default_merged", "default", "one_by_one"))
    if merged is None or default is None or wanted is None:
        return None

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a - b) / np.linalg.norm(wanted))

    return {
        "error_of_merging": distance(merged, default),
        "effect_of_the_adapter": distance(default, bare),
        "rounding_of_batches": distance(default, wanted),
        "least_cosine_merged_to_unmerged": float(cosines(merged, default).min()),
    }


def _add_targets(report: Report) -> None:
    """Each way's speed over the public code's, and the targets."""
    ways = report["ways"]
    for figures in ways.values():
        if "visits_per_s" in figures and "visits_per_s" in ways["public"]:
            figures["speedup_over_public"] = figures["visits_per_s"] / ways["public"]["visits_per_s"]
    default = ways["default"]
    over = default.get("speedup_over_public")
    report.add_targets(
        {
            "default of the matrix rate": (0.6, default.get("of_matrix_rate")),
            "default visits per second": (70, default.get("visits_per_s")),
            "default over public, one pass": (10, over),
            "default over public, the teacher's whole work (four passes there)": (40, over and 4 * over),
        }
    )


def _line(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return f"failed: {figures['failed']}"
    return (
        f"{figures['visits_per_s']:>8.2f} visits/s  {figures['computed_tokens_per_s']:>10,.0f} tokens/s computed"
        f"  {figures['of_matrix_rate']:.3f} of the matrix rate  padding {figures['padding_share']:.3f}"
        f"  least cosine {figures['least_cosine']:.5f}  prepared in {figures['prepare_s']:.1f} s"
    )
