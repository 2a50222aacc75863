"""The connection to Ray: the cluster that RAY_ADDRESS names, else a quiet local one."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

_CHECKOUT = str(Path(__file__).resolve().parents[1])


@contextmanager
def session(cpus: int = 0) -> Iterator[None]:
    """Be connected to Ray inside the block; nested use joins the session that is there.

    A local session offers at least `cpus`, so that a laptop with fewer cores shares them instead of waiting for ever. A
    cluster keeps its own size. Only what was started or connected here is ended afterwards.
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
    path = os.pathsep.join(filter(None, [_CHECKOUT, os.environ.get("PYTHONPATH")]))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ notes; its errors still arrive as exceptions
    ray.init(
        address="local",
        num_cpus=max(cpus, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        # Workers import ckd and jobs from this checkout or installation, whatever folder the command was given in.
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
