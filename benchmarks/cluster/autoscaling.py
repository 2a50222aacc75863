"""How a cluster comes and goes with the work: `ckd embed` with workers 0..4 on a local Ray cluster that scales itself.

It goes from no node to four and back, with one node killed and one drained on the way. Nodes are processes of this
machine and embedding sleeps: the order of things is real, their pace is not a cloud's. Exit code 1 when the parts are
not byte-equal to those of one process, or a shard was computed again that neither blow met in flight.

    python -m benchmarks.cluster.autoscaling        # about 2 minutes; results/autoscaling.json, docs/autoscaling.svg
    python -m benchmarks.cluster.autoscaling --draw # only the picture, from the last result
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cluster.equal import parts_equal
from benchmarks.cluster.ledger import Line, at_risk, recomputed, unexplained
from benchmarks.cluster.picture import draw
from benchmarks.cluster.plan import Blow
from benchmarks.cluster.run import NODES, NOTICE_S, SETTINGS, Run
from benchmarks.cluster.work import SHARD_ROWS, SHARD_S, make_inputs, words
from benchmarks.report import RESULTS, ROOT, Report, options
from testbed.raycluster import Cluster, until

RESULT = RESULTS / "autoscaling.json"
PICTURE = ROOT / "docs" / "autoscaling.svg"
SHARDS = 84
BLOWS = [Blow("machine", "embed", 24), Blow("drain", "embed", 44)]
LOOK_S = 0.2
QUIET_S = 4.0  # before and after, to be shown in the picture
Nodes = dict[str, dict[str, Any]]  # the end of a node's id -> its times


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, RESULT.name)
    parser.add_argument("--draw", action="store_true", help="only draw the picture")
    parser.add_argument("--seed", type=int, default=1, help="of whom the blows fall on")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    arguments = parser.parse_args(argv)
    code = 0
    if not arguments.draw:
        report = Report("cluster.autoscaling", argv, arguments.out)
        code = report.finish(measure(report, arguments.seed))
    arguments.picture.write_text(draw(json.loads(arguments.out.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"{arguments.out} drawn into {arguments.picture}")
    return code


def measure(report: Report, seed: int) -> bool:
    """The run, added to the report; whether all is as it should be."""
    with tempfile.TemporaryDirectory(prefix="ckd", dir="/tmp") as root:
        folder = Path(root)
        for name in ("inputs", "alone", "cluster"):
            (folder / name).mkdir()
        make_inputs(folder / "inputs", SHARDS - 20, 10)
        embed_alone(words(folder / "inputs", folder / "alone", 1))
        settings = [*words(folder / "inputs", folder / "cluster", 1), "teacher.workers=0..4"]
        run = Run(folder / "cluster", settings, print, stage="embed")
        try:
            with watched(run.cluster, run.started) as nodes:
                time.sleep(QUIET_S)
                run.finish(list(BLOWS), random.Random(seed))
                ended = time.time()
                until(lambda: all("to" in node for node in nodes.values()), 120, "no node is left", LOOK_S)
                emptied = time.time()
                time.sleep(QUIET_S)
        finally:
            run.end()
        equal = parts_equal(*(folder / name / "chaos/artifacts/embeddings" for name in ("alone", "cluster")))
        report |= described(run, nodes, equal)
        report["seconds_from_the_end_to_no_node"] = round(emptied - ended, 1)
    report.show(*(name for name in report if name not in ("nodes", "shards")))
    explained = not report["recomputed_without_a_kill_that_met_them"]
    return equal["equal"] and explained and run.codes == [0] and len(run.kills) >= len(BLOWS)


def embed_alone(settings: list[str]) -> None:
    """The same work in one process, with as many threads as a cluster's worker: the parts are to be byte-equal."""
    command = [sys.executable, "-m", "jobs", "embed", *settings, "teacher.workers=0", "student.workers=0"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **SETTINGS}, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def watched(cluster: Cluster, started: float) -> Iterator[Nodes]:
    """Every node beside the head: `from` and `to`, in seconds after `started`, as the cluster's head believes."""
    nodes: Nodes = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            now = round(time.time() - started, 1)
            for row in cluster.table():
                if row["NodeID"] != cluster.head.id:
                    node = nodes.setdefault(row["NodeID"][-4:], {"from": now})
                    if row["state"] == "DEAD":
                        node.setdefault("to", now)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield nodes
    finally:
        ended.set()
        watcher.join()


def described(run: Run, nodes: Nodes, equal: dict[str, Any]) -> dict[str, Any]:
    """The timeline and its figures; times in seconds after the cluster's start."""
    blows = {kill.victim.removeprefix("node "): kill for kill in run.kills if kill.kind in ("machine", "drain")}
    for name, node in nodes.items():
        node["end"] = blows[name].kind if name in blows else "idle"
        if name in blows:
            node["blow"] = round(blows[name].time - run.started, 1)
    amounts = {"shards": SHARDS, "visits": SHARDS * SHARD_ROWS, "least_seconds_per_shard": SHARD_S}
    there = [sum(n["from"] <= at < n["to"] for n in nodes.values()) for at in [n["from"] for n in nodes.values()]]
    return {
        "work": {**amounts, "workers": "0..4", "nodes": NODES},
        "notice_s": NOTICE_S,
        "most_nodes": max(there),
        "nodes_started": len(nodes),
        "parts": equal,
        "shards_in_flight_at_the_blows": sum(len(at_risk(kill, run.ledger.lines)) for kill in run.kills),
        "shards_recomputed": sum(recomputed(run.ledger.lines).values()),
        "recomputed_without_a_kill_that_met_them": unexplained(run.ledger.lines, run.kills),
        "nodes": [{"node": name, **node} for name, node in sorted(nodes.items())],
        "shards": spans(run.ledger.lines, run.started),
    }


def spans(lines: list[Line], started: float) -> list[dict[str, Any]]:
    """Every start of a shard: on which node, from when to when; without `to` when it was not finished."""
    found: list[dict[str, Any]] = []
    open_: dict[int, dict[str, Any]] = {}
    for line in lines:
        at = round(line["time"] - started, 2)
        if line["what"] == "shard_begun":
            open_[line["pid"]] = {"shard": line["shard"], "node": line["node"][-4:], "from": at}
            found.append(open_[line["pid"]])
        elif line["what"] == "shard_done":
            open_.pop(line["pid"])["to"] = at
    return found


if __name__ == "__main__":
    raise SystemExit(main())
