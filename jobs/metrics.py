"""Events as Prometheus metrics, where a Ray session can show them; elsewhere nothing happens. Names and values belong to cluster.gauges."""

import sys
from collections.abc import Mapping
from typing import Any


def publish(event: str, figures: Mapping[str, Any]) -> None:
    """Set the metrics that `event` changes. Does not import Ray: a process without it has no session."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        from cluster.gauges import record

        record(event, figures)
