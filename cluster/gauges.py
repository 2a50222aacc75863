"""The run as Prometheus metrics: names, meanings, and which event sets which.

Ray's metrics agents publish them on every node's metrics port, with `ray_` in front.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # ray.nodes() breaks when the session ends meanwhile
from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import RayError
from ray.util.metrics import Gauge

METRICS = {
    "ckd_visits_per_second": "visits finished per second since the stage started",
    "ckd_tokens_per_second": "real tokens computed per second since the stage started",
    "ckd_visits_done": "visits finished in this stage by this driver",
    "ckd_visits_total": "visits that this driver found to do in this stage",
    "ckd_shards_done": "shards finished in this stage by this driver",
    "ckd_shards_total": "shards that this driver found to do in this stage",
    "ckd_shards_failed": "shards set aside with an error",
    "ckd_shard_retries": "starts of a shard beyond its first, whatever ended the one before",
    "ckd_shard_deaths": "starts of a shard that ended with its process and not with its machine: "
    "three, and the shard is set aside",
    "ckd_spent": "cost of the teacher's pass so far, earlier attempts included, in the currency of the price",
    "ckd_student_step": "optimizer steps done",
    "ckd_student_steps": "optimizer steps of the whole training, at most",
    "ckd_student_step_seconds": "seconds per optimizer step since the last report",
    "ckd_student_loss": "training loss since the last report",
    "ckd_student_visits_per_second": "training visits per second since the last report",
    "ckd_student_checkpoint_step": "optimizer step of the newest whole checkpoint",
    "ckd_preemptions": "nodes of this Ray cluster that ended after a spot notice",
    "ckd_nodes_lost": "nodes of this Ray cluster that died without a notice",
}
OF_THE_CLUSTER = {"ckd_preemptions", "ckd_nodes_lost"}
SECONDS_BETWEEN_TELLINGS = 1.0
SECONDS_BETWEEN_LOOKS = 10.0  # at the table of nodes
SECONDS_TO_ANSWER = 5
_COUNTED = ("ckd_visits_done", "ckd_shards_done", "ckd_shards_failed", "ckd_shard_retries", "ckd_shard_deaths")
_FIGURES = {  # event -> metric -> figure of the event
    "stage_started": {"ckd_shards_total": "shards", "ckd_visits_total": "visits"},
    # Sent again with every shard: a command of its own starts its session after the stage.
    "shard_done": {"ckd_shards_total": "shards"},
    "shard_failed": {"ckd_shards_total": "shards"},
    "progress": {
        "ckd_visits_total": "total",
        "ckd_visits_per_second": "visits_per_s",
        "ckd_tokens_per_second": "tokens_per_s",
    },
    "spend": {"ckd_spent": "total"},
    "student_step": {
        "ckd_student_step": "step",
        "ckd_student_steps": "steps",
        "ckd_student_step_seconds": "step_seconds",
        "ckd_student_loss": "loss",
        "ckd_student_visits_per_second": "visits_per_s",
    },
    "student_checkpoint": {"ckd_student_checkpoint_step": "checkpoint"},
}


class Gauges:
    """The metrics of one driver in one Ray session.

    Ray forgets a gauge that is not set again within two of its report intervals, so the last values are published again
    and again while the session lasts.
    """

    def __init__(self, address: str) -> None:
        """Connect to the head at `address`."""
        self.head = GcsClient(address=address)
        tags = {name: () if name in OF_THE_CLUSTER else ("stage",) for name in METRICS}
        self.gauges = {name: Gauge(name, text, tag_keys=tags[name]) for name, text in METRICS.items()}
        self.values: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.changing = threading.Lock()
        self.looked = float("-inf")

    def record(self, event: str, figures: Mapping[str, Any]) -> None:
        """Take the values of `event`. Unknown events and figures are ignored."""
        stage = str(figures.get("stage", "train-student"))
        with self.changing:
            for name, figure in _FIGURES.get(event, {}).items():
                if figure in figures:
                    self.values[name, stage] = float(figures[figure])
            if event == "stage_started":
                self.values.update({(name, stage): 0.0 for name in _COUNTED})
            elif event in ("shard_done", "shard_failed"):
                self.values["ckd_shards_done", stage] += event == "shard_done"
                self.values["ckd_shards_failed", stage] += event == "shard_failed"
                self.values["ckd_visits_done", stage] += figures.get("visits", 0)
            elif event == "shard_retried":
                self.values["ckd_shard_retries", stage] += figures["starts"] - 1
                self.values["ckd_shard_deaths", stage] += figures["attempts"] - 1

    def look_at_nodes(self) -> None:
        """Count the machines that are gone, every 10 s. Raises RayError when the head does not answer."""
        if time.monotonic() - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = time.monotonic()
        nodes = self.head.get_all_node_info(timeout=SECONDS_TO_ANSWER).values()
        ends = Counter(node.death_info.reason for node in nodes if node.state == GcsNodeInfo.DEAD)
        with self.changing:
            self.values["ckd_preemptions", ""] = ends[NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED]
            self.values["ckd_nodes_lost", ""] = ends[NodeDeathInfo.UNEXPECTED_TERMINATION]

    def publish(self) -> None:
        """Hand all values to Ray."""
        with self.changing:
            for (name, stage), value in self.values.items():
                self.gauges[name].set(value, tags={"stage": stage} if stage else {})


_current: tuple[str, Gauges] | None = None


def record(event: str, figures: Mapping[str, Any]) -> None:
    """Set the values of `event` in this process's Ray session. Raises RuntimeError when there is none."""
    global _current  # metrics belong to a session, and a process may have one after another
    context = ray.get_runtime_context()
    session = f"{context.gcs_address} {context.get_job_id()}"
    if _current is None or _current[0] != session:
        _current = session, Gauges(context.gcs_address)
        threading.Thread(target=_keep_publishing, args=(_current[1],), name="gauges", daemon=True).start()
    _current[1].record(event, figures)


def _keep_publishing(gauges: Gauges) -> None:
    while ray.is_initialized() and _current is not None and _current[1] is gauges:
        with suppress(RayError, RuntimeError, OSError):  # the session ended, or the head does not answer just now
            gauges.look_at_nodes()
            gauges.publish()
        time.sleep(SECONDS_BETWEEN_TELLINGS)
