"""The run as Prometheus metrics: names, meanings, and which event sets which. Ray's metrics agents publish them on every node's metrics port,
with `ray_` in front. What happens, and when it is said, is the jobs' business; without a Ray session nobody calls this."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.util.metrics import Gauge

METRICS = {
    "ckd_visits_per_second": "visits finished per second since the stage started",
    "ckd_tokens_per_second": "real tokens computed per second since the stage started",
    "ckd_visits_done": "visits finished in this stage by this driver",
    "ckd_visits_total": "visits that this driver found to do in this stage",
    "ckd_shards_done": "shards finished in this stage by this driver",
    "ckd_shards_total": "shards that this driver found to do in this stage",
    "ckd_shards_failed": "shards set aside with an error",
    "ckd_shard_retries": "starts of a shard beyond its first that its worker's death caused; a machine's death is none of them",
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
SECONDS_BETWEEN_LOOKS = 10.0  # at the table of nodes
_FIGURES = {  # event -> metric -> figure of the event
    "progress": {
        "ckd_visits_total": "total",
        "ckd_visits_per_second": "visits_per_s",
        "ckd_tokens_per_second": "tokens_per_s",
    },
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
    """The metrics of one driver in one Ray session."""

    def __init__(self) -> None:
        self.gauges = {name: Gauge(name, text, tag_keys=() if name in OF_THE_CLUSTER else ("stage",)) for name, text in METRICS.items()}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.looked = float("-inf")

    def record(self, event: str, figures: Mapping[str, Any]) -> None:
        """Set what `event` says. Unknown events and figures are passed over."""
        stage = str(figures.get("stage", "train-student"))
        for name, figure in _FIGURES.get(event, {}).items():
            if figure in figures:
                self.set(name, stage, figures[figure])
        if event == "stage_started":
            self._start(stage, figures)
        elif event in ("shard_done", "shard_failed"):
            # Said again here: a command of its own starts its session after the stage.
            self.set("ckd_shards_total", stage, figures["shards"])
            self._count("ckd_shards_done", stage, event == "shard_done")
            self._count("ckd_shards_failed", stage, event == "shard_failed")
            self._count("ckd_shard_retries", stage, max(figures.get("attempts", 1) - 1, 0))
            self._count("ckd_visits_done", stage, figures.get("visits", 0))
        self._look_at_nodes()

    def set(self, name: str, stage: str, value: float) -> None:
        """Set one metric, of one stage or (stage "") of the cluster."""
        self.gauges[name].set(float(value), tags={"stage": stage} if stage else {})

    def _start(self, stage: str, figures: Mapping[str, Any]) -> None:
        self.set("ckd_shards_total", stage, figures["shards"])
        self.set("ckd_visits_total", stage, figures["visits"])
        for name in ("ckd_visits_done", "ckd_shards_done", "ckd_shards_failed", "ckd_shard_retries"):
            self.counts[name, stage] = 0
            self._count(name, stage, 0)

    def _count(self, name: str, stage: str, more: int) -> None:
        self.counts[name, stage] += more
        self.set(name, stage, self.counts[name, stage])

    def _look_at_nodes(self) -> None:
        if time.monotonic() - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = time.monotonic()
        ends = Counter(node["DeathReason"] for node in ray.nodes() if not node["Alive"])
        self.set("ckd_preemptions", "", ends[NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED])
        self.set("ckd_nodes_lost", "", ends[NodeDeathInfo.UNEXPECTED_TERMINATION])


_current: tuple[str, Gauges] | None = None


def record(event: str, figures: Mapping[str, Any]) -> None:
    """Set what `event` says in the Ray session that this process is connected to. Raises RuntimeError when there is none."""
    global _current
    context = ray.get_runtime_context()
    session = f"{context.gcs_address} {context.get_job_id()}"
    if _current is None or _current[0] != session:
        _current = session, Gauges()
    _current[1].record(event, figures)
