"""Which of the student's options help: every option alone against the base configuration on tuning, with paired training seeds; then one
confirmation of the winner on other patients. Seeds, sizes, arms and the criterion: benchmarks/evidence/ablation.yaml.

    OMP_NUM_THREADS=1 python -m benchmarks.evidence.ablation selection [--processes 2] [--minutes 60]
    OMP_NUM_THREADS=1 python -m benchmarks.evidence.ablation confirmation
    python -m benchmarks.evidence.ablation report

A killed run continues: an arm and seed that are done are read from their file below --work. `report` writes benchmarks/results/ablation.json and the
tables of docs/ablation.md.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from fcntl import LOCK_EX, flock
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.evidence.arms import result_file, run_arm
from benchmarks.evidence.choice import choose, compare
from benchmarks.evidence.cohort import cohort_folder, make_cohort, make_shared, make_student_base
from benchmarks.evidence.setup import BASE, SETUP, Arm, Phase, Setup, load_setup
from ckd.store.files import digest, write_bytes
from jobs.console import Console

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "results" / "ablation"
Task = tuple[Arm, int | None]  # no seed: make the stages that arms share


def main(argv: Sequence[str] | None = None) -> int:
    """One phase, or the report; 3 when there was no time for all of it."""
    arguments = _parse(argv)
    setup = load_setup(arguments.setup)
    if arguments.phase == "report":
        from benchmarks.evidence.report import report

        report(arguments.work, setup)
        return 0
    if not arguments.prepare:
        require_same(arguments.work, setup)
    arms = setup.arms if arguments.phase == "selection" or arguments.prepare else confirmed(arguments.work, setup)
    arms = [arm for arm in arms if not arguments.arms or arm.name in arguments.arms]
    facts = origin(arguments.uncommitted, argv)
    limits = {"processes": arguments.processes, "minutes": arguments.minutes, "prepare": arguments.prepare}
    return run_phase(arguments.work, setup, arguments.phase, arms, facts, **limits)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("selection", "confirmation", "report"))
    parser.add_argument("--setup", type=Path, default=SETUP)
    parser.add_argument(
        "--work", type=Path, default=WORK, help="cohorts, models and finished arms (default results/ablation)"
    )
    parser.add_argument("--processes", type=int, default=2, help="arms at a time, one thread each")
    parser.add_argument("--minutes", type=float, default=600, help="after which no further arm is begun")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="selection: only these for now (default all)")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="only the cohort, the student base and the teachers with their embeddings",
    )
    parser.add_argument(
        "--uncommitted", action="store_true", help="to try the code: run although seeds and set-up are not committed"
    )
    return parser.parse_args(argv)


def run_phase(
    work: Path,
    setup: Setup,
    phase: Phase,
    arms: Sequence[Arm],
    facts: dict[str, Any],
    *,
    processes: int,
    minutes: float,
    prepare: bool = False,
) -> int:
    """Train every arm with every seed, `processes` at a time, as far as the time goes."""
    began = time.monotonic()
    folder = make_cohort(work, setup, phase)
    make_student_base(work, setup)
    print(f"{phase}: cohort in {folder} ({time.monotonic() - began:.0f} s)", flush=True)
    left = [task for task in tasks(setup, phase, arms, prepare) if not is_done(work, phase, *task)]
    total, done, running = len(left), 0, set[Future[str]]()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        while left or running:
            while left and len(running) < processes and time.monotonic() - began < minutes * 60:
                arm, seed = left.pop(0)
                running.add(pool.submit(work_on, work, setup, phase, arm, seed, facts))
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                done += 1
                print(
                    f"{phase}: {done}/{total} after {(time.monotonic() - began) / 60:.1f} min: {future.result()}",
                    flush=True,
                )
    if left:
        print(f"{phase}: {len(left)} of {total} left; run the same command again to continue", flush=True)
    return 3 if left else 0


def is_done(work: Path, phase: Phase, arm: Arm, seed: int | None) -> bool:
    """Whether a task's file is there."""
    return seed is not None and result_file(work, phase, arm.name, seed).exists()


def tasks(setup: Setup, phase: Phase, arms: Sequence[Arm], prepare: bool) -> Iterator[Task]:
    """The teachers first, as many at a time as there are processes; then arm after arm, all its seeds together."""
    for adapter in dict.fromkeys(arm.adapter for arm in arms):
        yield next(arm for arm in arms if arm.adapter == adapter), None
    for arm in () if prepare else arms:
        for seed in setup.seeds(phase):
            yield arm, seed


def work_on(work: Path, setup: Setup, phase: Phase, arm: Arm, seed: int | None, facts: dict[str, Any]) -> str:
    """One task in a process of its own; returns a line."""
    import torch

    torch.set_num_threads(1)
    folder = cohort_folder(work, setup, phase)
    ready = folder / f"ready-{arm.shared}"
    with (folder / f"lock-{arm.adapter}").open(
        "w"
    ) as lock:  # arms of the same teacher wait for whoever makes their stages
        flock(lock, LOCK_EX)
        if not ready.exists():
            with (folder / "log.txt").open("a") as log:
                ready.write_text(str(make_shared(work, setup, phase, arm, Console(log))))
    if seed is None:
        return f"teacher {arm.adapter} and its labels"
    found = run_arm(work, setup, phase, arm, seed, Path(ready.read_text()), facts)
    return f"{arm.name} {seed}: tuning macro AUROC {found['tuning']['macro_auroc']:.4f}, {found['cpu_s']:.0f} CPU s"


def confirmed(work: Path, setup: Setup) -> list[Arm]:
    """The arms of the confirmation. The choice is made here, from the tuning figures of the selection alone, and is kept: there is no second one."""
    path = work / "choice.json"
    if not path.exists():
        compared = compare(setup, results(work, setup, "selection"))
        write_bytes(str(path), (json.dumps(choose(setup, compared), indent=1) + "\n").encode())
    choice = json.loads(path.read_text())
    names = dict.fromkeys([BASE, choice["candidate"], *setup.raw["confirmation"]["beside"]])
    return [setup.arm(name) for name in names]


def results(work: Path, setup: Setup, phase: Phase) -> dict[tuple[str, int], dict[str, Any]]:
    """The finished arms of a phase by (arm, seed)."""
    keys = [(arm.name, seed) for arm in setup.arms for seed in setup.seeds(phase)]
    return {key: json.loads(path.read_text()) for key in keys if (path := result_file(work, phase, *key)).exists()}


def require_same(work: Path, setup: Setup) -> None:
    """Refuse to mix arms of two set-ups in one folder."""
    path, now = work / "setup.txt", digest(setup.raw)
    if path.exists() and path.read_text() != now:
        raise SystemExit(f"{work}: holds arms of another set-up; give another --work, or delete it")
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(now)


def origin(uncommitted: bool, argv: Sequence[str] | None) -> dict[str, Any]:
    """Commit and command of the run. Raises SystemExit while the code or the set-up differ from the commit."""
    watched = ["ckd", "jobs", "benchmarks/*.py", "benchmarks/*.yaml"]
    changed = _git("status", "--porcelain", "--", *watched)
    if changed and not uncommitted:
        raise SystemExit(
            "code or set-up are not committed; commit them before the run (seeds are fixed beforehand), or try with --uncommitted"
        )
    words = sys.argv[1:] if argv is None else argv
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed_since": changed,
        "command": f"python -m benchmarks.evidence.ablation {shlex.join(words)}",
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
