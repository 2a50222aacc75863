"""Shows events as Prometheus metrics where there is a Ray session; elsewhere nothing happens."""

import sys
from collections.abc import Mapping
from typing import Any


def publish(event: str, figures: Mapping[str, Any]) -> None:
    """Set the metrics that `event` changes. Does not import Ray: a process without it has no session."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        from cluster.gauges import record

        record(event, figures)
