"""The connection to Ray: the cluster that RAY_ADDRESS names, else a quiet local one."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread

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
    with _signals_of_the_caller():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(logging_level=logging.ERROR)
        else:
            _start_local(cpus)
    try:
        yield
    finally:
        # Disconnects from a named cluster; ends the processes of a local one.
        with _signals_of_the_caller():
            ray.shutdown()


@contextmanager
def _signals_of_the_caller() -> Iterator[None]:
    """Give the handlers back that Ray's start and end replace, below Python too: its own abort with a C++ stack.

    Meanwhile SIGHUP is ignored, which the processes of a local Ray inherit: a closed terminal sends it to all of them,
    and the student's step could not be saved.
    """
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
