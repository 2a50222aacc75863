"""Which of the student's options help: every option against the base configuration on tuning, then one confirmation.

Arms have paired training seeds; the winner is confirmed on other patients. What runs: ablation.yaml. A killed run
continues: an arm and seed that are done are read from their file below --work. `report` writes results/ablation.json
and the tables of docs/ablation.md.

    OMP_NUM_THREADS=1 python -m benchmarks.evidence.ablation selection [--processes 2] [--minutes 60]
    OMP_NUM_THREADS=1 python -m benchmarks.evidence.ablation confirmation
    python -m benchmarks.evidence.ablation report
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from fcntl import LOCK_EX, flock
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.evidence.arms import run_arm
from benchmarks.evidence.choice import choose, compare
from benchmarks.evidence.cohort import make_cohort, make_shared, make_student_base
from benchmarks.evidence.report import report
from benchmarks.evidence.setup import BASE, SETUP, Arm, Setup, Trial, load_setup
from benchmarks.report import ROOT, changes, git, options
from ckd.store.files import digest
from ckd.store.jsonfile import write_json
from jobs.console import Console

WORK = ROOT / "results" / "ablation"
Task = tuple[Arm, int | None]  # no seed: make the stages that arms share


def main(argv: Sequence[str] | None = None) -> int:
    """One phase, or the report; 3 when there was no time for all of it."""
    arguments = _parse(argv)
    work, setup, phase = arguments.work, load_setup(arguments.setup), arguments.phase
    if phase == "report":
        report(work, setup)
        return 0
    if not arguments.prepare:
        require_same(work, setup)
    arms = setup.arms if phase == "selection" or arguments.prepare else confirmed(work, setup)
    arms = [arm for arm in arms if not arguments.arms or arm.name in arguments.arms]
    trial, facts = Trial(work, setup, phase), origin(arguments.uncommitted, argv)
    left = tasks(trial, arms, arguments.prepare)
    return run_tasks(trial, list(left), facts, processes=arguments.processes, minutes=arguments.minutes)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("phase", choices=("selection", "confirmation", "report"))
    parser.add_argument("--setup", type=Path, default=SETUP)
    work = "cohorts, models and finished arms (default results/ablation)"
    parser.add_argument("--work", type=Path, default=WORK, help=work)
    parser.add_argument("--processes", type=int, default=2, help="arms at a time, one thread each")
    parser.add_argument("--minutes", type=float, default=600, help="after which no further arm is started")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="selection: only these for now (default all)")
    prepare = "only the cohort, the student base and the teachers with their embeddings"
    parser.add_argument("--prepare", action="store_true", help=prepare)
    uncommitted = "to try the code: run although seeds and set-up are not committed"
    parser.add_argument("--uncommitted", action="store_true", help=uncommitted)
    return parser.parse_args(argv)


def run_tasks(trial: Trial, left: list[Task], facts: dict[str, Any], *, processes: int, minutes: float) -> int:
    """Do every task that is not done, `processes` at a time, as far as the time goes; 3 when some are left."""
    started, phase = time.monotonic(), trial.phase
    folder = make_cohort(trial)
    make_student_base(trial.work, trial.setup)
    print(f"{phase}: cohort in {folder} ({time.monotonic() - started:.0f} s)", flush=True)
    left = [(arm, seed) for arm, seed in left if seed is None or not trial.result_file(arm.name, seed).exists()]
    total, done, running = len(left), 0, set[Future[str]]()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        while left or running:
            while left and len(running) < processes and time.monotonic() - started < minutes * 60:
                running.add(pool.submit(work_on, trial, *left.pop(0), facts))
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                done, passed = done + 1, (time.monotonic() - started) / 60
                print(f"{phase}: {done}/{total} after {passed:.1f} min: {future.result()}", flush=True)
    if left:
        print(f"{phase}: {len(left)} of {total} left; run the same command again to continue", flush=True)
    return 3 if left else 0


def tasks(trial: Trial, arms: Sequence[Arm], prepare: bool) -> Iterator[Task]:
    """The teachers first, as many at a time as there are processes; then arm after arm, all its seeds together."""
    for adapter in dict.fromkeys(arm.adapter for arm in arms):
        yield next(arm for arm in arms if arm.adapter == adapter), None
    for arm in () if prepare else arms:
        for seed in trial.seeds:
            yield arm, seed


def work_on(trial: Trial, arm: Arm, seed: int | None, facts: dict[str, Any]) -> str:
    """One task in a process of its own; returns a line."""
    import torch

    torch.set_num_threads(1)
    folder = trial.folder
    ready = folder / f"ready-{arm.shared}"
    with (folder / f"lock-{arm.adapter}").open("w") as lock:  # arms of one teacher wait for whoever makes their stages
        flock(lock, LOCK_EX)
        if not ready.exists():
            with (folder / "log.txt").open("a") as log:
                ready.write_text(str(make_shared(trial, arm, Console(log))))
    if seed is None:
        return f"teacher {arm.adapter} and its labels"
    found = run_arm(trial, arm, seed, Path(ready.read_text()), facts)
    return f"{arm.name} {seed}: tuning macro AUROC {found['tuning']['macro_auroc']:.4f}, {found['cpu_s']:.0f} CPU s"


def confirmed(work: Path, setup: Setup) -> list[Arm]:
    """The arms of the confirmation.

    The choice is made here, only from the tuning figures of the selection, and is kept: there is no second one.
    """
    path = work / "choice.json"
    if not path.exists():
        selection = Trial(work, setup, "selection")
        write_json(str(path), choose(setup.raw["criterion"], compare(selection, selection.results())))
    choice = json.loads(path.read_text())
    names = dict.fromkeys([BASE, choice["candidate"], *setup.raw["confirmation"]["beside"]])
    return [setup.arm(name) for name in names]


def require_same(work: Path, setup: Setup) -> None:
    """Refuse to mix arms of two set-ups in one folder."""
    path, now = work / "setup.txt", digest(setup.raw)
    if path.exists() and path.read_text() != now:
        raise SystemExit(f"{work}: holds arms of another set-up; give another --work, or delete it")
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(now)


def origin(uncommitted: bool, argv: Sequence[str] | None) -> dict[str, Any]:
    """Commit and command of the run. Raises SystemExit while the code or the set-up differ from the commit."""
    commit, changed = git("rev-parse", "HEAD"), changes()
    if (commit is None or changed) and not uncommitted:
        raise SystemExit(
            "code or set-up are not committed; commit them before the run (seeds are fixed beforehand), "
            "or try with --uncommitted"
        )
    command = f"python -m benchmarks.evidence.ablation {shlex.join(sys.argv[1:] if argv is None else argv)}"
    return {"commit": commit, "changed_since": changed, "command": command}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
