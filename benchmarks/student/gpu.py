"""The GPU half of the student's training benchmark: bert-base's geometry, each way for some seconds of steady training.

A way that fails or finds no time leaves its reason in the report, and the others go on.
"""

import gc
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import FAILURES, failed, seconds_left
from benchmarks.report import Report
from benchmarks.student import loops
from benchmarks.student.geometry import BERT_BASE, TINY
from benchmarks.student.visits import LONGEST, SHORTER, Made, make_visits, write_base, write_cohort
from ckd.config import Config
from ckd.store.folders import delete_folder
from ckd.teacher.matrix_rate import matrix_rate
from testbed.ports import free_port

VISITS = 40_960  # per set: more than a way takes, so that none ends an epoch, which would be scored and saved
WARM_STEPS = 10
Way = Callable[[loops.Enough], None]


class Clock:
    """Counts optimizer steps between two moments; called with a step now and then, it says when that is enough."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds, self.device = seconds, device
        self.first: tuple[int, float] | None = None
        self.last = (0, 0.0)

    def __call__(self, step: int) -> bool:
        """Whether to stop. Waits for the device, so it does that seldom."""
        if step < WARM_STEPS or (self.first and time.perf_counter() - self.last[1] < self.seconds / 10):
            return False
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.last = (step, time.perf_counter())
        self.first = self.first or self.last
        return self.last[0] > self.first[0] and self.last[1] - self.first[1] >= self.seconds

    def steps_per_s(self) -> float:
        """Raises ValueError when training ended before two moments."""
        if self.first is None or self.last[0] == self.first[0]:
            raise ValueError("training ended before it could be timed")
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


class Bench:
    """One run: its report, its clock, and the visits."""

    def __init__(self, report: Report, folder: Path, device: str, tiny: bool, seconds: float, limit: float) -> None:
        self.report, self.folder, self.device, self.tiny, self.seconds = report, folder, device, tiny, seconds
        self.ends, self.shorter = time.monotonic() + limit, SHORTER if tiny else 1
        self.width, self.visits = LONGEST // self.shorter, 640 if tiny else VISITS
        self.geometry = TINY if tiny else BERT_BASE
        self.base = write_base(folder / "base", self.geometry)

    def measured_lengths(self) -> None:
        """The public loop, then the project: at the public batch size, at its own, dealt by length, and under ZeRO."""
        made, weights = self._made(1), self.folder / "x.pt"
        plain = self._config("measured", batch_size=loops.BATCH)
        self._add("public", made, plain, lambda e: loops.public(plain, made, weights, self.device, self.width, e))
        write_cohort(plain, made)
        for batch, accumulation in ((8, 1), (32, 1), (32, 2), (32, 4)):
            config = self._config("measured", batch_size=batch, gradient_accumulation=accumulation)
            name = f"project, batch {batch} as {accumulation} x {batch // accumulation}"
            self._add(name, made, config, self._project(config))
        if self.device == "cuda":  # it sets this process up for good, and is slow to import: a CPU has tests of its own
            config = self._config("measured", batch_size=32, zero_stage=1)
            self._add("project, batch 32, ZeRO 1", made, config, self._project(config, deepspeed=True))

    def fixed_lengths(self) -> None:
        """Model FLOP utilisation where nothing is padding; and what activation checkpointing costs and saves."""
        for length, rows in ((256, 128), (512, 64)):
            made, name = self._made(2, length), f"length {length}"
            settings = {"batch_size": 8 if self.tiny else rows}
            plain = self._config(name, **settings)
            write_cohort(plain, made)
            self._add(f"project, {length} tokens", made, plain, self._project(plain))
        config = self._config(name, activation_checkpointing=True, **settings)
        self._add("project, 512 tokens, activation checkpointing", made, config, self._project(config))

    def _made(self, seed: int, length: int = 0) -> Made:
        return make_visits(self.visits, self.geometry.vocabulary, seed, length=length, shorter=self.shorter)

    def _config(self, name: str, **student: Any) -> Config:
        gpus, common = float(self.device == "cuda"), {"max_length": self.width, "epochs": 100, "learning_rate": 1e-5}
        return loops.make_config(self.folder / name, self.base, gpus=gpus, **common, **student)

    def _project(self, config: Config, deepspeed: bool = False) -> Way:
        def run(enough: loops.Enough) -> None:
            if deepspeed:
                where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
                os.environ |= {**where, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
                torch.distributed.init_process_group("nccl")
            loops.project(config, enough, min(1.0, self.seconds / 10), deepspeed)

        return run

    def _add(self, name: str, made: Made, config: Config, way: Way) -> None:
        ways, started = self.report["ways"], time.monotonic()
        try:
            seconds_left(self.ends)
            if self.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            clock = Clock(self.seconds, self.device)
            way(clock)
            ways[name] = self._figures(made, config, name == "public", clock.steps_per_s(), time.monotonic() - started)
        except FAILURES as error:
            ways[name] = failed(error)
        finally:
            delete_folder(str(Path(config.run.artifacts_root) / "checkpoints"))  # the next way starts anew
            gc.collect()  # the trainer and its callbacks hold each other, and the model
        print(f"{name:<46} {_line(ways[name])}", flush=True)
        self.report.save()

    def _figures(self, made: Made, config: Config, padded: bool, steps_per_s: float, wall: float) -> dict[str, Any]:
        s = config.student
        public, dealt = loops.useful_share(made, self.width, s.batch_size, s.gradient_accumulation)
        useful, visits_per_s = public if padded else dealt, steps_per_s * s.batch_size
        tokens = sum(map(len, made.ids)) / len(made.ids)
        same = len({len(ids) for ids in made.ids}) == 1
        # Of attention's rows: a bound from above where lengths differ.
        width = tokens if same and not padded else self.width
        per_token = 6 * self.geometry.weights + 12 * self.geometry.layers * self.geometry.hidden * width
        flops = visits_per_s * tokens / useful * per_token
        return {
            "visits_per_s": visits_per_s,
            "useful_tokens_per_s": visits_per_s * tokens,
            "useful_share": useful,
            "of_matrix_rate": flops / self.report["matrix_rate_flops"] if same or padded else None,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None,
            "batch_size": s.batch_size,
            "gradient_accumulation": s.gradient_accumulation,
            "wall_s": wall,  # with loading, warming up, and the checkpoint that stopping writes
        }


def measure_gpu(bench: Bench) -> bool:
    """Fill the report, way by way; False when one failed."""
    report, rate = bench.report, matrix_rate(bench.device, "bfloat16")
    if rate is None:
        raise MemoryError("the device has no room for two small matrices: something else fills it")
    report |= {"geometry": asdict(bench.geometry), "matrix_rate_flops": rate, "ways": {}}
    print(f"{report['device']}: {rate / 1e12:.3g} TFLOP/s in a square bfloat16 product")
    bench.measured_lengths()
    bench.fixed_lengths()
    _add_targets(report)
    return all("failed" not in figures for figures in report["ways"].values())


def _add_targets(report: Report) -> None:
    ways = report["ways"]
    public = ways["public"].get("visits_per_s")
    for figures in ways.values():
        if public and "visits_per_s" in figures:
            figures["speedup_over_public"] = figures["visits_per_s"] / public
    over = ways["project, batch 32 as 1 x 32"].get("speedup_over_public")
    shares = {n: ways[f"project, {n} tokens"].get("of_matrix_rate") for n in (256, 512)}
    targets = {"the default (batch 32) over the public loop": (3.0, over)}
    report.add_targets(targets | {f"of the matrix rate at {n} tokens": (0.35, share) for n, share in shares.items()})


def _line(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return f"failed: {figures['failed']}"
    share = figures["of_matrix_rate"]
    return (
        f"{figures['visits_per_s']:>8.1f} visits/s  {figures['useful_tokens_per_s']:>10,.0f} useful tokens/s  "
        f"{'' if share is None else f'{share:.3f} of the matrix rate  '}useful {figures['useful_share']:.3f}"
    )
