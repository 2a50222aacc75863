"""The metrics count machines that end with a notice, and without."""

import json
import subprocess
import sys
import time

import pytest

from testbed.raycluster import cluster, until

pytestmark = pytest.mark.faults

COUNT = """
import json, os, ray
from cluster.gauges import Gauges
ray.init(logging_level="ERROR")
gauges = Gauges(os.environ["RAY_ADDRESS"])
gauges.look_at_nodes()
print(json.dumps({name: value for (name, _), value in gauges.values.items()}))
"""


def counted(one):
    done = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, env=one.environment, timeout=120, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_machine_that_ends_after_a_notice_is_a_preemption_and_one_without_is_lost():
    with cluster({"warned": {}, "gone": {}, "stays": {}}) as one:
        assert counted(one) == {"ckd_preemptions": 0, "ckd_nodes_lost": 0}
        one.drain("warned", 2)
        time.sleep(
            3
        )  # the cloud takes the machine at the deadline, which Ray compares with the moment when it misses the node
        one.vanish("warned")
        one.vanish("gone")
        until(lambda: one.alive() == {one.head.id, one.nodes["stays"].id}, 30, "two nodes are dead")
        assert counted(one) == {"ckd_preemptions": 1, "ckd_nodes_lost": 1}
