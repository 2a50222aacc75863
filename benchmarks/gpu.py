"""What benchmarks with a CPU and a GPU half share: options, a time limit, and the reason that a failed way leaves."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Report, options

# Of one way, which the others need not share. TimeoutError is an OSError.
FAILURES = (RuntimeError, ValueError, TypeError, ImportError, AttributeError, OSError)


def gpu_options(doc: str | None, tiny: str, limit: str) -> argparse.ArgumentParser:
    """The common options; `tiny` and `limit` say in words what --tiny makes smaller and what --limit ends."""
    parser = options(doc)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda with --gpu, else cpu")
    parser.add_argument("--tiny", action="store_true", help=f"{tiny}, to try the code")
    parser.add_argument("--limit", type=float, help=limit)
    parser.add_argument("--commit", help="where the checkout's git history did not travel along")
    parser.add_argument("--out", type=Path)
    return parser


def start(module: str, result: str, arguments: argparse.Namespace, argv: list[str] | None) -> Report | None:
    """The report, after `arguments.device` was chosen; None, and one line, when there is no such device."""
    import torch

    half = "gpu" if arguments.gpu else "cpu"
    arguments.device = arguments.device or ("cuda" if arguments.gpu else "cpu")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        how = "run it on one, or try its code with --gpu --device cpu --tiny"
        print(f"{module} --gpu: this machine has no CUDA device; {how}", file=sys.stderr)
        return None
    out = arguments.out or RESULTS / f"{result}-{half}.json"
    return Report(module, argv, out, device=arguments.device, commit=arguments.commit)


def seconds_left(ends: float) -> float:
    """Until the clock of time.monotonic comes to `ends`. Raises TimeoutError when it has."""
    if (left := ends - time.monotonic()) <= 0:
        raise TimeoutError("the benchmark's time was over (--limit)")
    return left


@contextmanager
def time_left(ends: float) -> Iterator[None]:
    """Stops what runs inside with TimeoutError when the clock of time.monotonic has come to `ends`."""

    def stop(*_: Any) -> None:
        raise TimeoutError("the benchmark's time was over (--limit)")

    left, before = seconds_left(ends), signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def failed(error: BaseException) -> dict[str, str]:
    """The figures of a way that failed: why, in one line."""
    return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
