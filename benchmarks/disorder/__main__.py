"""Fifty mishaps, each for one command of a run: is anything wrong stored, or anything stored damaged unseen?

A mishap is a SIGKILL or SIGSTOP at one of the driver's calls to the file system, two drivers at once, a flipped bit in
a finished file, or a full disk (plan.py). Then what the user is told is done, and all files are compared with those of
a run without mishap. Exit code 1 when one differs, a row is lost, a damage is seen by no command, or a command ends in
a traceback or with a code that is not for users. Needs the right to mount a small file system in memory.

    python -m benchmarks.disorder [--events 50] [--seed 6]      # under 25 minutes; writes results/disorder.json
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.disorder.driver import Drivers
from benchmarks.disorder.files import States, differences
from benchmarks.disorder.mishap import MISSED, Mishaps
from benchmarks.disorder.plan import Event, make_inputs, plan
from benchmarks.report import RESULTS, Report, options
from testbed.raycluster import cluster

DISK = "512m"
RESULT = RESULTS / "disorder.json"
CPUS = 8  # of the one Ray node: two drivers, and what a killed one has not let go yet


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, RESULT.name)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of the events to try; default: all")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs; default: one that goes")
    arguments = parser.parse_args(argv)
    report = Report("disorder", argv, arguments.out)
    report["seed"] = arguments.seed
    events = [e for e in plan(arguments.seed, arguments.events) if not arguments.only or e.number in arguments.only]
    place = arguments.keep or Path(tempfile.mkdtemp(prefix="ckddisorder", dir="/tmp"))
    started = time.monotonic()
    with disk(place / "disk"):
        good = measure(report, place, events)
    report["seconds"] = round(time.monotonic() - started)
    if good and not arguments.keep:
        shutil.rmtree(place)
    return report.finish(good)


def measure(report: Report, place: Path, events: list[Event]) -> bool:
    """Both undisturbed runs, then every event; whether none has a fault."""
    for folder in ("inputs", "logs", "disk/work", "states/local", "states/ray"):
        (place / folder).mkdir(parents=True)
    make_inputs(place / "inputs")
    drivers, work = Drivers(place / "disk/work", place / "logs"), place / "disk/work"
    states = {ray: States(work, place / f"states/{'ray' if ray else 'local'}") for ray in (False, True)}
    with cluster(cpus=CPUS) as nodes:
        os.environ |= {name: value for name, value in nodes.environment.items() if name != "RAY_ADDRESS"}
        mishaps = Mishaps(place / "inputs", drivers, states, nodes.address)
        for ray in sorted({False, *(event.ray for event in events)}):
            mishaps.alone(ray)
        if any(event.ray for event in events):
            both = [states[ray].contents("soft-labels") for ray in (False, True)]
            report["differs_on_ray"] = differences(*both)
        report["events"] = []
        for event in events:
            report["events"].append(mishaps.happen(event))
            print(said(report["events"][-1]), flush=True)
            report.save()
    report |= summary(report["events"])
    report.show("by_kind", "by_stage", "with_ray", "missed", "rows_lost", "unequal", "damages", "faulty")
    return not report["faulty"] and not report.get("differs_on_ray")


def summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """How many events of each kind, and what must be none."""
    bits = [event for event in events if event["kind"] == "bit"]
    seen = Counter("harmless" if event["harmless"] else "seen" if event["seen_by"] else "unseen" for event in bits)
    return {
        "by_kind": dict(Counter(event["kind"] for event in events)),
        "by_stage": dict(Counter(event["stage"] for event in events)),
        "with_ray": sum(event["ray"] for event in events),
        "missed": sum(event["what"].endswith(MISSED) for event in events),
        "rows_lost": sum(event["rows_lost"] for event in events),
        "unequal": sum(bool(event["differences"]) for event in events),
        "damages": {name: seen[name] for name in ("seen", "harmless", "unseen")},
        "faulty": [event["number"] for event in events if event["faults"]],
    }


def said(event: dict[str, Any]) -> str:
    """One line of an event, and one per fault."""
    where = f"{event['stage']}{' on Ray' if event['ray'] else ''}: {event['kind']}, {event['what']}"
    ends = f"{', '.join(event['exit_codes'])}; {event['seconds']} s"
    return "\n".join([f"{event['number']}. {where}: {ends}", *(f"   FAULT {fault}" for fault in event["faults"])])


@contextmanager
def disk(place: Path) -> Iterator[None]:
    """A small file system in memory at `place` while this lasts."""
    place.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "ckd", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}; run this where that is allowed")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
