"""The result of a benchmark: the command, commit, machine and versions that made it, its figures, targets and file.

Also the two rules of every comparison: ways are timed in turn, and each turn begins with another way.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Argv = Sequence[str] | None  # None: the process's
LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "ray", "pyarrow")


def options(doc: str | None, out: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring; `out`, a file in benchmarks/results, is the default of its --out."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if out:
        parser.add_argument("--out", type=Path, default=RESULTS / out)
    return parser


class Report(dict[str, Any]):
    """What goes into the file `out`; it starts with where, when and by what it was made."""

    def __init__(
        self, module: str, argv: Argv, out: Path | None, device: str = "cpu", commit: str | None = None
    ) -> None:
        words = shlex.join(sys.argv[1:] if argv is None else argv)
        super().__init__(
            command=f"python -m benchmarks.{module} {words}".strip(),
            commit=commit or git("rev-parse", "HEAD"),
            changed_since=changes(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            device=_named(device),
            versions={"python": platform.python_version(), **versions(*LIBRARIES)},
            load_average=os.getloadavg()[0],
        )
        self.out = out

    def save(self) -> None:
        """Write the file, if there is to be one. Called after each measurement, so that an early end costs little."""
        self["load_average_after"] = os.getloadavg()[0]
        if self.out:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(self, indent=1) + "\n", encoding="utf-8")

    def finish(self, good: bool = True) -> int:
        """Write the file, name it, and return the exit code."""
        self.save()
        if self.out:
            print(f"written to {self.out}")
        return int(not good)

    def show(self, *names: str) -> None:
        """Print these figures."""
        print(json.dumps({name: self[name] for name in names}, indent=1), flush=True)

    def add_targets(self, targets: dict[str, tuple[float, float | None]]) -> None:
        """Add and print each target: the least that is wanted beside what was measured."""
        self["targets"] = {
            name: {"target": least, "measured": measured, "met": measured is not None and measured >= least}
            for name, (least, measured) in targets.items()
        }
        for name, figures in self["targets"].items():
            print(f"{name}: {figures}")


def versions(*packages: str) -> dict[str, str]:
    """Of installed packages."""
    return {package: version(package) for package in packages}


def changes() -> str | None:
    """Changed files of code and set-ups, as git lists them; None where there is no git history."""
    return git("status", "--porcelain", "--", "ckd", "cluster", "jobs", "benchmarks/*.py", "benchmarks/*.yaml")


def git(*arguments: str) -> str | None:
    """What git prints in this checkout; None when it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _named(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


class Seconds(NamedTuple):
    """What a call took. `cpu` is that of all threads of this process."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Seconds:
    """The seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def in_turn(ways: Iterable[str], run: int) -> list[str]:
    """The ways in their order in a run. Over the runs each is first, last and in between, so no place favours one."""
    names = [*ways]
    first = run % max(len(names), 1)
    return names[first:] + names[:first]
