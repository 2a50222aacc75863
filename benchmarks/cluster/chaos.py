"""Does a run come to the same end whatever is killed, whenever? The whole pipeline (`ckd run`) on a local Ray cluster that scales itself from no
node, once undisturbed and once with random kills while it embeds and while it trains the student.

The cluster is Ray's own autoscaler with its fake provider: nodes of one CPU that are processes of this machine. The models are tiny and slowed down
(chaos_work.py), so that every kill meets work under way. Its place and kind come from --seed (chaos_plan.py lists the kinds), and so does its victim
among those at work. A kill falls only when more shards or steps are done than ever before since the last one.

    python -m benchmarks.cluster.chaos [--kills 50] [--seed 1]      # under 45 minutes on 2 cores

Writes benchmarks/results/chaos.json. Exit code 1 when the runs' artifacts differ, `ckd verify` finds something, a shard was computed again that no
kill met in flight, or a step was repeated that a notice or a checkpoint should have saved.
"""

import argparse
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cluster.equal import compare
from benchmarks.cluster.ledger import at_risk, blamed, recomputed, repeats, unexplained
from benchmarks.cluster.plan import plan
from benchmarks.cluster.run import DROUGHT_S, NODES, NOTICE_S, Run
from benchmarks.cluster.work import BATCH, CHECKPOINT_STEPS, SHARD_ROWS, SHARD_S, STEP_S, make_inputs, words

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("ray", "torch", "transformers", "deepspeed", "pyarrow")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, help="an empty folder for the runs' files and logs; default: one that goes"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "chaos.json")
    arguments = parser.parse_args(argv)
    report = header("benchmarks.cluster.chaos", sys.argv[1:] if argv is None else argv)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="ckdchaos", dir="/tmp"))
    good = measure(report, folder, arguments.kills, arguments.seed)
    report["load_average_after"] = os.getloadavg()[0]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.out}")
    if not arguments.keep and good:
        shutil.rmtree(folder)
    return int(not good)


def header(module: str, argv: list[str]) -> dict[str, Any]:
    """Where, when and by what a result was made."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "command": f"python -m {module} {shlex.join(argv)}".strip(),
        "commit": _git("rev-parse", "HEAD"),
        "changed_since": _git("status", "--porcelain", "--", "ckd", "cluster", "jobs", "benchmarks/*.py"),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{names[0] if names else platform.processor()}, {len(names)} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "load_average": os.getloadavg()[0],
    }


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def measure(report: dict[str, Any], folder: Path, kills: int, seed: int) -> bool:
    """Both runs, compared and added to the report; whether all is as it should be."""
    began = time.monotonic()
    shards, others = sizes(kills)
    steps_per_epoch = -(-(shards - 2 * others) * SHARD_ROWS // BATCH)
    epochs = -(-(10 + 6 * kills) // steps_per_epoch)
    for name in ("inputs", "undisturbed", "chaos"):
        (folder / name).mkdir()
    make_inputs(folder / "inputs", shards - 2 * others, others)
    report["work"] = {
        **{
            "shards": shards,
            "visits": shards * SHARD_ROWS,
            "steps": epochs * steps_per_epoch,
            "checkpoint_steps": CHECKPOINT_STEPS,
            "nodes": NODES,
        },
        **{
            "embed_workers": "2..3",
            "student_workers": "1..2",
            "least_seconds_per_shard": SHARD_S,
            "least_seconds_per_step": STEP_S,
        },
        **{"notice_s": NOTICE_S, "drought_s": DROUGHT_S},
    }
    print("undisturbed", flush=True)
    reference = finished(folder, "undisturbed", epochs, [], seed)
    print(f"undisturbed: {reference.seconds:.0f} s", flush=True)
    run = finished(folder, "chaos", epochs, plan(seed, kills, shards, epochs * steps_per_epoch), seed)
    verify = [sys.executable, "-m", "jobs.verify", *words(folder / "inputs", folder / "chaos", epochs)]
    verified = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True, check=False)
    report |= {"kills": kills_of(run), "shards": shards_of(run), "steps": steps_of(run)}
    report["equal"] = compare(
        folder / "undisturbed/chaos", folder / "chaos/chaos", reference.ledger.lines, run.ledger.lines
    )
    report["drivers"] = {"ended_by_themselves_with": run.codes, "undisturbed": reference.codes}
    report["verify"] = {
        "exit_code": verified.returncode,
        "last_line": (verified.stdout + verified.stderr).strip().splitlines()[-1:],
    }
    lost = run.seconds - reference.seconds
    report["time"] = {
        **{
            "undisturbed_s": round(reference.seconds, 1),
            "with_kills_s": round(run.seconds, 1),
            "lost_s": round(lost, 1),
        },
        **{"lost_s_per_kill": round(lost / max(kills, 1), 1), "whole_benchmark_s": round(time.monotonic() - began, 1)},
    }
    report["checks"] = checks(report, kills)
    print(
        json.dumps(
            {key: report[key] for key in ("kills", "shards", "steps", "equal", "drivers", "verify", "time", "checks")},
            indent=1,
        )
    )
    return all(report["checks"].values())


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


def sizes(kills: int) -> tuple[int, int]:
    """Shards in all, and of tuning and of held_out: some work is left between any two kills."""
    return 20 + 2 * kills, (20 + 2 * kills) // 8


def finished(folder: Path, name: str, epochs: int, blows: list[Any], seed: int) -> Run:
    """One run to its end."""
    run = Run(folder / name, words(folder / "inputs", folder / name, epochs), lambda line: print(line, flush=True))
    try:
        run.finish(blows, random.Random(seed))
    finally:
        run.end()
    return run


def kills_of(run: Run) -> dict[str, Any]:
    """How many of each kind, and how long until there was more than ever before."""
    dealt = [kill for kill in run.kills if kill.kind != "drained"]
    recovered = {
        kind: [k.recovered_s for k in dealt if k.kind == kind and k.recovered_s is not None]
        for kind in Counter(k.kind for k in dealt)
    }
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
                "shards_recomputed": blamed(run.ledger.lines, run.kills).get(number, 0),
                "s_to_progress": kill.recovered_s,
            }
            for number, kill in enumerate(run.kills)
        ],
    }


def shards_of(run: Run) -> dict[str, Any]:
    """Shards computed again, beside those that the kills met in flight."""
    again = recomputed(run.ledger.lines)
    return {
        "recomputed": sum(again.values()),
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
