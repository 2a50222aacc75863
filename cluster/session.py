"""The connection to Ray: the cluster that RAY_ADDRESS names, else a quiet local one."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import ray
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig

from cluster import local
from cluster.address import IN_A_JOB, RefusedError, UnreachableClusterError, named_cluster, require_head

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_CODE = str(Path(__file__).resolve().parents[1])


@contextmanager
def session(cpus: int = 0) -> Iterator[None]:
    """Be connected to Ray inside the block; nested use joins the session that is there.

    A local session offers at least `cpus`, so that a laptop with fewer cores shares them instead of waiting for ever. A
    cluster keeps its own size. Only what was started or connected here is ended afterwards.

    Raises WrongAddressError, UnreachableClusterError or RefusedError for the cluster that RAY_ADDRESS names,
    MachineError where this machine cannot run a Ray of its own.
    """
    if ray.is_initialized():
        yield
        return
    address = named_cluster()
    ready: AbstractContextManager[dict[str, Any]] = nullcontext({}) if address else local.settings()
    with ready as settings:
        with _signals_of_the_caller(*_ENDING, signal.SIGINT):
            if address:
                _connect(address)
            else:
                _start_local(cpus, settings)
        try:
            yield
        finally:
            # Disconnects from a named cluster; ends the processes of a local one.
            with _signals_of_the_caller(*_ENDING):
                ray.shutdown()


@contextmanager
def _signals_of_the_caller(*waiting: signal.Signals) -> Iterator[None]:
    """Give the handlers back that Ray's start and end replace, below Python too: its own abort with a C++ stack.

    Meanwhile they wait. The processes of a local Ray inherit that and never get them: a closed terminal, Slurm
    or `timeout` sends them to all, and the student's step could not be saved.
    """
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in waiting}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _connect(address: str) -> None:
    require_head(address)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray.init(logging_level=logging.ERROR, **_code())
    except AuthenticationError as error:
        raise RefusedError(str(error).partition("\n")[0].partition(". ")[0]) from None
    except ConnectionError as error:
        raise UnreachableClusterError(f"no Ray runs there ({type(error).__name__})") from None


def _start_local(cpus: int, settings: dict[str, Any]) -> None:
    path = os.pathsep.join(filter(None, [_CODE, os.environ.get("PYTHONPATH")]))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ notes; its errors still arrive as exceptions
    ray.init(
        address="local",
        num_cpus=max(cpus, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
        **_code(),
        **settings,
    )


def _code() -> dict[str, Any]:
    """What lets workers import ckd and jobs from where this driver has them, whatever folder it was started in.

    Ray would put that folder first on their paths, and with it a cluster.py or jobs.py that lies there. A submitted job
    has a copy of the checkout, which it keeps.
    """
    return {} if IN_A_JOB in os.environ else {"job_config": JobConfig(_py_driver_sys_path=[_CODE], _client_job=True)}
