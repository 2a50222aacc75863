"""Networks that part and heal: a worker cut off from its cluster, and the head cut off from the store.

Ray's times are those of testbed.raycluster: a machine is missed after about 12 s of silence (30 and more by default),
and gives up on its head after 10 s (60).
"""

import time
from collections import Counter

import pytest

from testbed import hosts
from testbed.raycluster import CHECKOUT, cluster, until
from tests.faults.fake_embed import CODE, SHARDS, assert_equal_and_clean, parts, starts
from tests.store.object_store import BUCKET, s3_server

REFUSED = hosts.refused()
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(bool(REFUSED), reason=f"no network namespaces here: {REFUSED}"),
]


@pytest.fixture(scope="module")
def network():
    """A head and three machines with a (fake) GPU, each with an address of its own, and a store beside them."""
    with hosts.hosts("head", "a", "b", "c") as net, s3_server(net.address) as port:
        store = {"AWS_ENDPOINT_URL": f"http://{net.address}:{port}"}
        store |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        with cluster(cpus=0, hosts=net, settings=store) as one:
            for name in "abc":
                one.add(name, gpus=1, wait=False)
            one.wait(*"abc")
            yield net, one, store


def embedding(one, folder, seconds, workers, *more):
    """The job of a pass whose shards take `seconds`; it runs on the head's machine."""
    words = (str(folder), str(seconds), "FakeEmbedWorker", f"teacher.workers={workers}", "teacher.gpus_per_worker=1")
    return one.driver("-c", CODE, *words, *more, cwd=CHECKOUT, log=folder / "output.txt")


def said(folder):
    return (folder / "output.txt").read_text()[-3000:] + f"\n{len(starts(folder))} starts"


def at_work(one, folder, names, job):
    """Wait until each machine has started a shard."""
    nodes = {one.nodes[name].id for name in names}
    until(lambda: job.poll() is not None or nodes <= {s["node"] for s in starts(folder)}, 120, f"{names} are at work")
    assert job.poll() is None, said(folder)


def test_a_worker_cut_off_for_a_moment_is_waited_for_and_one_given_up_is_replaced(network, folder, undisturbed):
    """Longer cuts are as the second: to its cluster a machine that was given up is dead, also when it is healed."""
    net, one, _ = network
    job = embedding(one, folder, 6, 3)
    at_work(one, folder, "abc", job)
    node = one.nodes["c"].id
    for name in "bc":
        net.cut(name)
    time.sleep(5)
    assert one.nodes["b"].id in one.alive()
    net.heal("b")
    until(lambda: node not in one.alive(), 60, "c is given up")
    net.heal("c")  # while its shards are computed elsewhere, and it may still write them
    assert job.wait(timeout=150) == 0, said(folder)
    assert_equal_and_clean(folder, undisturbed)
    counted = Counter(s["shard"] for s in starts(folder))
    repeated = {shard for shard, count in counted.items() if count > 1}
    assert repeated and repeated <= {s["shard"] for s in starts(folder) if s["node"] == node}, "b was waited for"


def test_a_head_that_was_cut_off_from_the_store_ends_with_the_same_parts(network, folder, undisturbed, monkeypatch):
    net, one, store = network
    for key, value in store.items():
        monkeypatch.setenv(key, value)
    root = f"s3://{BUCKET}/artifacts"
    job = embedding(one, folder, 0.5, 1, f"run.artifacts={root}")
    until(lambda: job.poll() is not None or starts(folder), 120, "a worker has begun")
    net.hide("head", net.address)
    until(lambda: job.poll() is not None or len(starts(folder)) == SHARDS, 60, f"the worker goes on: {folder}")
    time.sleep(3)  # the driver asks the store at the pass's end
    net.show("head", net.address)
    assert job.wait(timeout=90) == 0, said(folder)
    assert parts(folder, root) == parts(undisturbed)
