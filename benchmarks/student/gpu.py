"""The GPU half of the student's training benchmark: bert-base's geometry with random weights, each way for some seconds of steady training.

A way that fails or finds no time leaves its reason in the report, and the others go on.
"""

import gc
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.student import loops as student_loops
from benchmarks.student.training import SHORTER, make_config, useful_share
from benchmarks.student.visits import BERT_BASE, LONGEST, TINY, Geometry, Made, make_visits, write_base, write_cohort
from benchmarks.teacher.speed import target
from ckd.config import Config
from ckd.teacher.matrix_rate import matrix_rate

VISITS = 40_960  # per set: more than a way sees, so that none ends an epoch, which would be scored and saved
WARM_STEPS = 10
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    ImportError,
    AttributeError,
    OSError,
)  # of one way, which the others need not share
Way = Callable[[Callable[[int], bool]], None]


class Clock:
    """Counts optimizer steps between two moments; told of a step now and then, it says when it has seen enough."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds, self.device = seconds, device
        self.first: tuple[int, float] | None = None
        self.last = (0, 0.0)

    def __call__(self, step: int) -> bool:
        """Whether to stop. Waits for the device, so it is asked seldom."""
        if step < WARM_STEPS or (self.first and time.perf_counter() - self.last[1] < self.seconds / 10):
            return False
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.last = (step, time.perf_counter())
        self.first = self.first or self.last
        return self.last[0] > self.first[0] and self.last[1] - self.first[1] >= self.seconds

    def steps_per_s(self) -> float:
        """Raises ValueError when training ended before two moments were seen."""
        if self.first is None or self.last[0] == self.first[0]:
            raise ValueError("training ended before it could be timed")
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def measure_gpu(
    report: dict[str, Any],
    folder: Path,
    device: str,
    tiny: bool,
    seconds: float,
    limit: float,
    save: Callable[[], None],
) -> bool:
    """Fill the report, way by way; False when one failed."""
    rate = matrix_rate(device, "bfloat16")
    if rate is None:
        raise MemoryError("the device has no room for two small matrices: something else fills it")
    geometry = TINY if tiny else BERT_BASE
    report |= {"geometry": asdict(geometry), "matrix_rate_flops": rate, "ways": {}}
    print(f"{report['device']}: {rate / 1e12:.3g} TFLOP/s in a square bfloat16 product")
    bench = Bench(report, folder, device, geometry, tiny, seconds, time.monotonic() + limit, save)
    bench.measured_lengths()
    bench.fixed_lengths()
    _targets(report)
    return all("failed" not in figures for figures in report["ways"].values())


class Bench:
    """One run: its report, its clock, and the visits."""

    def __init__(
        self,
        report: dict[str, Any],
        folder: Path,
        device: str,
        geometry: Geometry,
        tiny: bool,
        seconds: float,
        ends: float,
        save: Callable[[], None],
    ) -> None:
        self.report, self.folder, self.device, self.geometry, self.save = report, folder, device, geometry, save
        self.seconds, self.ends, self.tiny, self.shorter = seconds, ends, tiny, SHORTER if tiny else 1
        self.width, self.visits = LONGEST // self.shorter, 640 if tiny else VISITS
        self.base = write_base(folder / "base", geometry)

    def measured_lengths(self) -> None:
        """The public loop, then the project at the public code's batch size, at its own, with micro-batches dealt by length, and under ZeRO."""
        made = make_visits(self.visits, self.geometry.vocabulary, 1, shorter=self.shorter)
        plain = self._config("measured", batch_size=student_loops.BATCH)
        self._add(
            "public",
            made,
            plain,
            lambda enough: student_loops.public(plain, made, self.folder / "x.pt", self.device, self.width, enough),
        )
        write_cohort(plain, made)
        for batch, accumulation in ((8, 1), (32, 1), (32, 2), (32, 4)):
            config = self._config("measured", batch_size=batch, gradient_accumulation=accumulation)
            self._add(
                f"project, batch {batch} as {accumulation} x {batch // accumulation}",
                made,
                config,
                self._project(config),
            )
        if (
            self.device == "cuda"
        ):  # it sets this process up for good, and takes long to import: a CPU's tests have their own
            config = self._config("measured", batch_size=32, zero_stage=1)
            self._add("project, batch 32, ZeRO 1", made, config, self._project(config, deepspeed=True))

    def fixed_lengths(self) -> None:
        """Model FLOP utilisation where nothing is padding; and what activation checkpointing costs and saves."""
        for length, rows in ((256, 128), (512, 64)):
            made = make_visits(self.visits, self.geometry.vocabulary, 2, length=length, shorter=self.shorter)
            write_cohort(self._config(f"length {length}"), made)
            settings = {"batch_size": 8 if self.tiny else rows}
            plain = self._config(f"length {length}", **settings)
            self._add(f"project, {length} tokens", made, plain, self._project(plain))
        config = self._config("length 512", activation_checkpointing=True, **settings)
        self._add("project, 512 tokens, activation checkpointing", made, config, self._project(config))

    def _config(self, name: str, **student: Any) -> Config:
        gpus = 1.0 if self.device == "cuda" else 0.0
        return make_config(
            self.folder / name, self.base, gpus=gpus, max_length=self.width, epochs=100, learning_rate=1e-5, **student
        )

    def _project(self, config: Config, deepspeed: bool = False) -> Way:
        def run(enough: Callable[[int], bool]) -> None:
            if deepspeed and not torch.distributed.is_initialized():
                with socket.socket() as one:
                    one.bind(("127.0.0.1", 0))
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1])}
                os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
                torch.distributed.init_process_group("nccl" if self.device == "cuda" else "gloo")
            between = min(1.0, self.seconds / 10)
            student_loops.project(config, enough, between, deepspeed)

        return run

    def _add(self, name: str, made: Made, config: Config, way: Way) -> None:
        ways, started = self.report["ways"], time.monotonic()
        checkpoints = Path(config.run.artifacts_root) / "checkpoints"
        try:
            if started > self.ends:
                raise RuntimeError("the benchmark's time was over (--limit)")
            if self.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            clock = Clock(self.seconds, self.device)
            way(clock)
            ways[name] = self._figures(made, config, name == "public", clock.steps_per_s(), time.monotonic() - started)
        except FAILURES as error:
            ways[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        finally:
            _remove(checkpoints)
            gc.collect()  # the trainer and its callbacks hold each other, and the model
        print(f"{name:<46} {_line(ways[name])}", flush=True)
        self.save()

    def _figures(self, made: Made, config: Config, padded: bool, steps_per_s: float, wall: float) -> dict[str, Any]:
        s = config.student
        public, dealt = useful_share(made, self.width, s.batch_size, s.gradient_accumulation)
        useful, visits_per_s = public if padded else dealt, steps_per_s * s.batch_size
        tokens = sum(map(len, made.ids)) / len(made.ids)
        same = len({len(ids) for ids in made.ids}) == 1
        width = (
            tokens if same and not padded else self.width
        )  # of attention's rows: a bound from above where lengths differ
        flops = (
            visits_per_s
            * tokens
            / useful
            * (6 * _computing(self.geometry) + 12 * self.geometry.layers * self.geometry.hidden * width)
        )
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


def _computing(geometry: Geometry) -> int:
    """Weights that every token meets: four square projections and two of the feed-forward, per layer."""
    return geometry.layers * (4 * geometry.hidden**2 + 2 * geometry.hidden * geometry.intermediate)


def _remove(checkpoints: Path) -> None:
    """The next way is to begin anew."""
    from ckd.store.folders import delete_folder

    delete_folder(str(checkpoints))


def _targets(report: dict[str, Any]) -> None:
    ways = report["ways"]
    public = ways["public"].get("visits_per_s")
    for figures in ways.values():
        if public and "visits_per_s" in figures:
            figures["speedup_over_public"] = figures["visits_per_s"] / public
    report["targets"] = {
        "the default (batch 32) over the public loop": target(
            3.0, ways["project, batch 32 as 1 x 32"].get("speedup_over_public")
        ),
        "of the matrix rate at 256 tokens": target(0.35, ways["project, 256 tokens"].get("of_matrix_rate")),
        "of the matrix rate at 512 tokens": target(0.35, ways["project, 512 tokens"].get("of_matrix_rate")),
    }
    for name, figures in report["targets"].items():
        print(f"{name}: {figures}")


def _line(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return f"failed: {figures['failed']}"
    share = figures["of_matrix_rate"]
    return (
        f"{figures['visits_per_s']:>8.1f} visits/s  {figures['useful_tokens_per_s']:>10,.0f} useful tokens/s  "
        f"{'' if share is None else f'{share:.3f} of the matrix rate  '}useful {figures['useful_share']:.3f}"
    )
