"""A training group on Ray Train: starts the ranks, restarts them after a loss, carries their reports to the driver. What a rank does is
handed over by jobs; where its state is kept is its own business, so a restart continues from there."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Figures = dict[str, Any]
TrainFunction = Callable[..., None]  # train_fn(payload, *, world, rank, preempted, report)
SECONDS_BETWEEN_MAILS = 0.5


class FitError(Exception):
    """The group failed more often than allowed. Carries the kind of the last failure, never its text, which may quote the data."""


def fit(
    train_fn: TrainFunction,
    payload: dict[str, Any],
    *,
    workers: int,
    gpus_per_worker: float,
    name: str,
    storage: str,
    on_report: Callable[[Figures], None] | None = None,
    failures: int = 3,
) -> None:
    """Run `train_fn(payload, world=…, rank=…, preempted=…, report=…)` on `workers` ranks with torch.distributed set up (nccl on GPUs, else gloo).

    Rank 0's reports reach `on_report` in this process. A lost machine restarts all ranks, preempted ones without limit, others `failures` times; then
    FitError. `preempted()` is a barrier: every rank calls it equally often. Needs a Ray session.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=here).remote()
    unique = f"{name}-{uuid4().hex[:8]}"
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"train_fn": train_fn, "payload": payload, "mailbox": mailbox},
        scaling_config=_scaling(workers, gpus_per_worker),
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
        # A run of the same name would continue the old one in silence: what is done is for the ranks' own checkpoints to say.
        run_config=RunConfig(
            name=unique,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=failures, max_preemption_failures=-1),
        ),
    )
    try:
        with _delivery(mailbox, on_report or (lambda _: None)):
            trainer.fit()
    except TrainingFailedError as error:
        raise FitError(_kind(error)) from None
    finally:
        if "://" not in storage:
            shutil.rmtree(Path(storage) / unique, ignore_errors=True)  # Ray's notes on a run that nobody continues by name


def _scaling(workers: int, gpus_per_worker: float) -> ScalingConfig:
    gpus = {"GPU": gpus_per_worker} if gpus_per_worker else {}
    return ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker={"CPU": 1, **gpus})


def _rank(loop: dict[str, Any]) -> None:
    context = ray.train.get_context()
    first = context.get_world_rank() == 0

    def preempted() -> bool:
        return ray.train.get_preemption_info() is not None

    def report(figures: Figures) -> None:
        # Not through ray.train.report: each one waits for the controller's 2 s poll, and the state it would carry is kept by the ranks themselves.
        if first:
            ray.get(loop["mailbox"].put.remote(figures))

    loop["train_fn"](loop["payload"], world=context.get_world_size(), rank=context.get_world_rank(), preempted=preempted, report=report)


class _Mailbox:
    """Holds the reports until the driver fetches them."""

    def __init__(self) -> None:
        self.waiting: list[Figures] = []

    def put(self, figures: Figures) -> None:
        self.waiting.append(figures)

    def take(self) -> list[Figures]:
        taken, self.waiting = self.waiting, []
        return taken


@contextmanager
def _delivery(mailbox: Any, on_report: Callable[[Figures], None]) -> Iterator[None]:
    ended = threading.Event()

    def fetch() -> None:
        for figures in ray.get(mailbox.take.remote()):
            on_report(figures)

    def deliver() -> None:
        while not ended.wait(SECONDS_BETWEEN_MAILS):
            fetch()

    courier = threading.Thread(target=deliver, daemon=True)
    courier.start()
    try:
        yield
    finally:
        ended.set()
        courier.join()
        fetch()
        ray.kill(mailbox)


def _kind(error: BaseException) -> str:
    """The types of an error and of what caused it."""
    causes = list(getattr(error, "worker_failures", {}).values()) or [error.__cause__ or error]
    return ", ".join(sorted({type(getattr(cause, "cause", None) or cause).__name__ for cause in causes}))
