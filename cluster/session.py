"""The connection to Ray: the cluster named by RAY_ADDRESS, else a quiet local one. What runs on it belongs to pool and fit."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

_CHECKOUT = str(Path(__file__).resolve().parents[1])


@contextmanager
def session(cpus: int = 0) -> Iterator[None]:
    """Be connected to Ray inside the block; end afterwards only what was started or connected here.

    `cpus` is what a local session must offer at least, so that a laptop with fewer cores shares them instead of waiting for ever; a cluster named by
    RAY_ADDRESS keeps its own size. Nested use joins the session that is there.
    """
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR)
    else:
        _start_local(cpus)
    try:
        yield
    finally:
        # Disconnects from a named cluster; ends the processes of a local one.
        ray.shutdown()


def _start_local(cpus: int) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ notes; its errors still arrive as exceptions
    ray.init(
        address="local",
        num_cpus=max(cpus, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        # Workers import ckd and jobs from this checkout or installation, whatever folder the command was given in.
        runtime_env={
            "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, [_CHECKOUT, os.environ.get("PYTHONPATH")]))}
        },
    )
