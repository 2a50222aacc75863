"""Actors, raylets and machines die or are drained during the teacher's pass over Ray actors.

It ends with the same parts, and computes not one shard too many.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions

from testbed.raycluster import CHECKOUT, stop, until
from tests.cluster.metadata_server import MetadataServer
from tests.faults.fake_embed import CODE, SHARDS, assert_equal_and_clean, starts

pytestmark = pytest.mark.faults
SECONDS = 0.8  # per shard
GRACE = 20


def embedding(head, folder, worker="FakeEmbedWorker", workers="2"):
    """The job of a run whose shards take their time, and where it writes its lines."""
    log = folder / "output.txt"
    words = (f"teacher.workers={workers}", "teacher.gpus_per_worker=1")
    return head.driver("-c", CODE, str(folder), str(SECONDS), worker, *words, cwd=CHECKOUT, log=log), log


def finish(job, log):
    assert job.wait(timeout=150) == 0, log.read_text()[-4000:]


def both_at_work(head, folder, names, job):
    """Wait until each machine has started its second shard."""
    ids = [head.nodes[name].id for name in names]
    until(
        lambda: job.poll() is not None or all([s["node"] for s in starts(folder)].count(i) >= 2 for i in ids),
        90,
        "both machines at work",
    )
    assert job.poll() is None, (folder / "output.txt").read_text()[-4000:]


@pytest.mark.parametrize("what", ["actor", "raylet", "machine"])
def test_a_killed_one_costs_only_the_shards_that_it_was_at(head, machines, folder, undisturbed, what):
    job, log = embedding(head, folder)
    both_at_work(head, folder, machines, job)
    node = head.nodes[machines[1]]
    if what == "actor":
        at_work = {s["process"] for s in starts(folder)} & {p.pid for p in node.workers()}
        os.kill(at_work.pop(), signal.SIGKILL)
    else:
        {"raylet": head.kill_raylet, "machine": head.vanish}[what](machines[1])
    finish(job, log)
    assert_equal_and_clean(folder, undisturbed)
    assert SHARDS < len(starts(folder)) <= SHARDS + 2, (
        "at most two shards, one computed and one read, are in an actor at a time"
    )
    retried = [json.loads(line) for line in (folder / "results/t/events.jsonl").read_text().splitlines()]
    counted = {e["attempts"] for e in retried if e["event"] == "shard_retried"}
    assert counted == ({2} if what == "actor" else {1}), "the machine's death is no fault of the shard"


@pytest.mark.parametrize("who", ["sigterm", "gcp"])
def test_a_machine_with_a_notice_gets_no_new_shard_and_nothing_is_computed_twice(
    head, machines, folder, undisturbed, who
):
    node = head.nodes[machines[1]]
    with MetadataServer(who) as metadata:
        watcher = watch(head, node, {} if who == "sigterm" else metadata.environment, who)
        job, log = embedding(head, folder)
        both_at_work(head, folder, machines, job)
        {"sigterm": watcher.terminate, "gcp": metadata.preempt}[who]()
        said = watcher.communicate(timeout=60)[0]
        drained = time.time()
    assert watcher.returncode == 0 and f"node {node.id} is drained" in said, said
    finish(job, log)
    assert_equal_and_clean(folder, undisturbed)
    assert max(s["time"] for s in starts(folder) if s["node"] == node.id) < drained + 0.5
    assert len(starts(folder)) == SHARDS, "what it was at was finished before the end, what waited went elsewhere"


def watch(head, node, environment, who):
    """The sidecar of one machine."""
    words = ["--node-id", node.id, "--grace", str(GRACE), "--cloud", who if environment else "none"]
    watcher = subprocess.Popen(
        [sys.executable, "-m", "cluster.preemption", *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        env={**head.environment, **environment},
    )
    assert "watching" in watcher.stdout.readline()
    return watcher


def test_the_deadline_that_ray_knows_is_the_clouds(head, machines):
    node = head.nodes[machines[0]]
    deadline = int(time.time()) + 500
    task = f"@ray.remote(resources={{'{node.name}': 1}})\ndef keep(): time.sleep(60)"
    with MetadataServer("aws") as metadata:
        metadata.end_at(deadline)
        job = head.driver("-c", f"import ray, time\nray.init()\n{task}\nray.get(keep.remote())")
        until(lambda: node.workers("ray::keep"), 60, "a task keeps the machine")
        assert watch(head, node, metadata.environment, "aws").wait(timeout=30) == 0
    state = GlobalState()
    state._initialize_global_state(
        GcsClientOptions.create(head.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    assert state.get_draining_nodes() == {node.id: deadline * 1000}
    stop(job)
