"""A small run on a local Ray of its own, and what its metrics port then says.

As a program it writes the page to FOLDER/page (standard output is Ray's too); test_gauges.py starts it.
"""

import os
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

os.environ.update(RAY_metrics_report_interval_ms="500", RAY_USAGE_STATS_ENABLED="0")

from functools import partial

import ray

from ckd.errors import IncompleteError
from ckd.section import Workers
from ckd.visits.visit import Shard
from jobs.console import terminal_console
from jobs.shards import map_worker
from jobs.train_student import Reports

SHARDS = 6
LAST = "ray_ckd_student_checkpoint_step{"
SECONDS_TO_FORGET = 4.0  # Ray drops a gauge that nobody sets again for two report intervals


@dataclass
class Worker:
    """Ends its process once at shard 2, fails at shard 4."""

    folder: str

    def __call__(self, shard):
        if shard.index == 2 and not (marker := Path(self.folder) / "died").exists():
            marker.touch()
            os._exit(1)
        if shard.index == 4:
            raise ValueError("a patient's text")
        return {"index": shard.index, "rows": shard.rows, "tokens": 7 * shard.rows}


def main(port, folder):
    ray.init(address="local", num_cpus=2, include_dashboard=False, _metrics_export_port=port, log_to_driver=False)
    console = terminal_console(folder)
    shards = [Shard(index, 10, "train", True, "t", "c") for index in range(SHARDS)]
    try:
        map_worker(console, "embed", partial(Worker, folder=folder), shards, workers=Workers(min=1, max=1))
    except IncompleteError as error:
        console.say(str(error))
    console.event("spend", stage="embed", attempt="a", spent=1.5, total=2.5)
    reports = Reports(console)
    reports(
        {
            "step": 5,
            "steps": 40,
            "step_seconds": 0.25,
            "loss": 0.5,
            "gradient_norm": 1.0,
            "visits_per_s": 128.0,
            "seconds_left": 9,
        }
    )
    reports({"checkpoint": 5, "step": 5, "preempted": False})
    end = time.monotonic() + 60
    while LAST not in read(port):
        assert time.monotonic() < end, "the metrics do not come"
        time.sleep(0.3)
    time.sleep(SECONDS_TO_FORGET)
    Path(folder, "page").write_text(read(port))
    ray.shutdown()


def read(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""  # the agent is not up yet


if __name__ == "__main__":
    # Ray's workers find Worker under the module's own name, not under __main__.
    from tests.cluster.scraped import main as run

    run(int(sys.argv[1]), sys.argv[2])
