"""Measures how fast this device multiplies matrices; accounting compares a model's FLOP/s with it."""

import time
from itertools import pairwise
from statistics import median

import torch

SIZES = (256, 512, 1024, 2048, 4096, 8192)
SECONDS = 0.5  # about what the whole measurement may take
TRIALS = 3  # per size on the way up


def matrix_rate(device: str, dtype: str) -> float | None:
    """FLOP/s of a square matrix product in `dtype` ("bfloat16", …) on "cuda" or "cpu", with this process's settings.

    2·n³ over the median time of a product of two normal n × n matrices, n the largest of SIZES of which some fit into
    SECONDS; None where not even the smallest fits into memory. It is a ceiling for a model's forward pass (nearly all
    matrix products) on this device, where no program reaches the figure of a data sheet. It says nothing about memory
    bandwidth. Half a second does not heat a GPU: in a long run its clock may fall. Other processes on the device lower
    it.
    """
    rate, seconds, left = None, [0.0], SECONDS
    for size in SIZES:
        if rate and TRIALS * 2 * size**3 / rate > left:
            break
        try:
            seconds = _seconds(size, device, dtype, TRIALS)
            rate = 2 * size**3 / median(seconds)
            left -= sum(seconds)
            largest = size
        except torch.cuda.OutOfMemoryError:
            break
    if rate and left > 0:
        seconds += _seconds(largest, device, dtype, min(int(left / median(seconds)), 200))
        rate = 2 * largest**3 / median(seconds)
    if device == "cuda":
        torch.cuda.empty_cache()  # the matrices' memory is the model's again
    return rate


@torch.inference_mode()
def _seconds(size: int, device: str, dtype: str, trials: int) -> list[float]:
    """The time of each of `trials` products, after one that is not timed. Raises torch.cuda.OutOfMemoryError."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).to(getattr(torch, dtype)) for _ in "ab")
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    if device == "cpu":
        return [_host_seconds(a, b, out) for _ in range(trials)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(trials + 1)]
    marks[0].record()
    for mark in marks[1:]:
        torch.mm(a, b, out=out)
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]


def _host_seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    return time.perf_counter() - started
