"""Does a run come to the same end whatever is killed, whenever? `ckd run` with random kills and without.

The cluster is Ray's autoscaler with nodes of one CPU that are processes of this machine. The models are tiny and slowed
down (work.py), so that every kill meets work under way. Place, kind and victim come from --seed (plan.py); a kill falls
only after more shards or steps than ever before are done. Exit code 1 when one of `checks` fails.

    python -m benchmarks.cluster.chaos [--kills 50] [--seed 1]      # under 45 minutes; writes results/chaos.json
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cluster.equal import compare
from benchmarks.cluster.ledger import at_risk, blamed, recomputed, repeats, unexplained
from benchmarks.cluster.plan import Blow, plan
from benchmarks.cluster.run import DROUGHT_S, NODES, NOTICE_S, Run
from benchmarks.cluster.work import BATCH, CHECKPOINT_STEPS, SHARD_ROWS, SHARD_S, STEP_S, make_inputs, words
from benchmarks.report import ROOT, Report, options

SHOWN = ("kills", "shards", "steps", "equal", "drivers", "verify", "time", "checks")


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, "chaos.json")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="an empty folder for files and logs; default: one that goes")
    arguments = parser.parse_args(argv)
    report = Report("cluster.chaos", argv, arguments.out)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="ckdchaos", dir="/tmp"))
    good = measure(report, folder, arguments.kills, arguments.seed)
    if not arguments.keep and good:
        shutil.rmtree(folder)
    return report.finish(good)


def measure(report: Report, folder: Path, kills: int, seed: int) -> bool:
    """Both runs, compared and added to the report; whether all is as it should be."""
    started = time.monotonic()
    shards, others = sizes(kills)
    steps_per_epoch = -(-(shards - 2 * others) * SHARD_ROWS // BATCH)
    epochs = -(-(10 + 6 * kills) // steps_per_epoch)
    steps = epochs * steps_per_epoch
    for name in ("inputs", "undisturbed", "chaos"):
        (folder / name).mkdir()
    make_inputs(folder / "inputs", shards - 2 * others, others)
    report["work"] = described(shards, steps)
    print("undisturbed", flush=True)
    reference = finished(folder, "undisturbed", epochs, [], seed)
    print(f"undisturbed: {reference.seconds:.0f} s", flush=True)
    run = finished(folder, "chaos", epochs, plan(seed, kills, shards, steps), seed)
    report |= {"kills": kills_of(run), "shards": shards_of(run), "steps": steps_of(run)}
    results, lines = (folder / "undisturbed/chaos", folder / "chaos/chaos"), (reference.ledger.lines, run.ledger.lines)
    report["equal"] = compare(*results, *lines)
    report["drivers"] = {"ended_by_themselves_with": run.codes, "undisturbed": reference.codes}
    report["verify"] = verified(words(folder / "inputs", folder / "chaos", epochs))
    lost = run.seconds - reference.seconds
    seconds = {"undisturbed_s": reference.seconds, "with_kills_s": run.seconds, "lost_s": lost}
    seconds |= {"lost_s_per_kill": lost / max(kills, 1), "whole_benchmark_s": time.monotonic() - started}
    report["time"] = {name: round(value, 1) for name, value in seconds.items()}
    report["checks"] = checks(report, kills)
    report.show(*SHOWN)
    return all(report["checks"].values())


def sizes(kills: int) -> tuple[int, int]:
    """Shards in all, and of tuning and of held_out: some work is left between any two kills."""
    return 20 + 2 * kills, (20 + 2 * kills) // 8


def described(shards: int, steps: int) -> dict[str, Any]:
    """How much work there is, and on what."""
    amounts = {"shards": shards, "visits": shards * SHARD_ROWS, "steps": steps, "checkpoint_steps": CHECKPOINT_STEPS}
    workers = {"nodes": NODES, "embed_workers": "2..3", "student_workers": "1..2"}
    pace = {"least_seconds_per_shard": SHARD_S, "least_seconds_per_step": STEP_S}
    return amounts | workers | pace | {"notice_s": NOTICE_S, "drought_s": DROUGHT_S}


def finished(folder: Path, name: str, epochs: int, blows: list[Blow], seed: int) -> Run:
    """One run to its end."""
    run = Run(folder / name, words(folder / "inputs", folder / name, epochs), lambda line: print(line, flush=True))
    try:
        run.finish(blows, random.Random(seed))
    finally:
        run.end()
    return run


def verified(settings: list[str]) -> dict[str, Any]:
    """What `ckd verify` says of a run."""
    command = [sys.executable, "-m", "jobs", "verify", *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, "last_line": (done.stdout + done.stderr).strip().splitlines()[-1:]}


def checks(report: dict[str, Any], kills: int) -> dict[str, bool]:
    """What must hold, by name. A driver may end by itself with 3 (submit again), but the last of a run with 0."""
    codes, undisturbed = report["drivers"]["ended_by_themselves_with"], report["drivers"]["undisturbed"]
    return {
        "all_kills": report["kills"]["dealt"] == kills,
        "drivers": {*codes, *undisturbed} <= {0, 3} and codes[-1] == undisturbed[-1] == 0,
        "equal": report["equal"]["equal"],
        "verify": report["verify"]["exit_code"] == 0,
        "shards_within_those_in_flight": not report["shards"]["recomputed_without_a_kill_that_met_them"],
        "steps_within_a_checkpoint_interval": report["steps"]["within"],
    }


def kills_of(run: Run) -> dict[str, Any]:
    """How many of each kind, and how long until there was more than ever before."""
    dealt = [kill for kill in run.kills if kill.kind != "drained"]
    recovered: dict[str, list[float]] = {kill.kind: [] for kill in dealt}
    for kill in dealt:
        if kill.recovered_s is not None:
            recovered[kill.kind].append(kill.recovered_s)
    costs = blamed(run.ledger.lines, run.kills)
    return {
        "dealt": len(dealt),
        "by_kind": dict(Counter(kill.kind for kill in dealt)),
        "by_stage": dict(Counter(kill.stage for kill in dealt)),
        "drained_machines_taken": len(run.kills) - len(dealt),
        "median_s_to_progress": {kind: median(found) for kind, found in recovered.items() if found},
        "most_s_to_progress": max((s for found in recovered.values() for s in found), default=None),
        "each": [
            {
                "kind": kill.kind,
                "stage": kill.stage,
                "at_s": round(kill.time - run.started, 1),
                "shards_in_flight": len(at_risk(kill, run.ledger.lines)),
                "shards_recomputed": costs.get(number, 0),
                "s_to_progress": kill.recovered_s,
            }
            for number, kill in enumerate(run.kills)
        ],
    }


def shards_of(run: Run) -> dict[str, Any]:
    """Shards computed again, beside those that the kills met in flight."""
    return {
        "recomputed": sum(recomputed(run.ledger.lines).values()),
        "in_flight_at_kills": sum(len(at_risk(kill, run.ledger.lines)) for kill in run.kills),
        "recomputed_without_a_kill_that_met_them": unexplained(run.ledger.lines, run.kills),
    }


def steps_of(run: Run) -> dict[str, Any]:
    """Steps done again, and whether every group's start kept its promise."""
    found = repeats(run.ledger.lines, run.kills, CHECKPOINT_STEPS)
    return {
        "groups": len(found),
        "worlds": dict(Counter(repeat.world for repeat in found)),
        "repeated": sum(repeat.repeated for repeat in found),
        "most_repeated_by_a_group": max((repeat.repeated for repeat in found), default=0),
        "repeated_after_notices_alone": sum(repeat.repeated for repeat in found if not repeat.allowed),
        "within": all(repeat.repeated <= repeat.allowed for repeat in found),
    }


if __name__ == "__main__":
    raise SystemExit(main())
