"""An elastic training group on Ray Train: as many ranks as there is room for, started again when machines come or go.

The ranks save their own state, so that a new group continues from it. Ray Train's own elastic mode would end a group
without notice when it grows, and count machines that are about to go as room; here a group that should be smaller or
larger saves and leaves first, and room.py asks the scheduler.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import gethostname
from typing import Any
from uuid import uuid4

import ray
import ray.train
import ray.train.collective
from ray.exceptions import RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import PreemptionError, TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.room import SECONDS_OF_PATIENCE, Bundle, lacking, wait_for_room, watch_for_room

Figures = dict[str, Any]
OnReport = Callable[[Figures], None]
TrainFunction = Callable[..., bool | None]  # train_fn(payload, *, world, rank, preempted, report)
FAILURES = 3  # groups in a row that may fail without a checkpoint or a lost machine
SECONDS_BETWEEN_MAILS = 0.5
SECONDS_TO_MISS_A_MACHINE = 20.0  # the head believes in a machine that vanished for so long
SECONDS_TO_SETTLE = 60.0  # a gain of some workers waits so long for more
_SETTINGS = {  # Ray Train's own, read by its controller
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # room that went in the meantime is looked for anew
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # of a notice of 30 s, 5 are too many to wait
}


class FitError(Exception):
    """The group failed more often than allowed. Has the kinds of the last errors, never their text (it may be data)."""


def fit(
    train_fn: TrainFunction,
    payload: dict[str, Any],
    *,
    workers: tuple[int, int],
    gpus_per_worker: float,
    name: str,
    on_report: OnReport,
    stopped: Callable[[], bool],
) -> None:
    """Run `train_fn(payload, world=…, rank=…, preempted=…, report=…)` on (least, most) ranks.

    torch.distributed is set up there (nccl on GPUs, else gloo); this process needs a Ray session. Rank 0's reports
    reach `on_report` here, and from every rank {"rank", "machine", "process"} at its start.

    `preempted()` is a barrier: every rank calls it equally often. It is true when a machine of the group is about to
    go, or when there has been room for more workers for a while; then every rank saves and returns False, and a new
    group starts on what there is. A group that ends otherwise without an error has finished.

    Once `stopped()` the group saves and leaves in the same way, and no other is started.

    A group that fails is started again: without limit when a machine was lost or a report with the key "checkpoint" has
    come from it, else FAILURES times in a row; then FitError.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    bundle: Bundle = {"CPU": 1, **({"GPU": gpus_per_worker} if gpus_per_worker else {})}
    failed = 0
    while True:
        world = wait_for_room(
            bundle,
            workers,
            lambda room: on_report({"waiting": workers[0], "room": room, "lacking": lacking(bundle)}),
            SECONDS_OF_PATIENCE,
            stopped,
        )
        if stopped():
            return
        before, group = _other_machines(), _Group(on_report, stopped)
        more = watch_for_room(bundle, workers[1] - world, group.has_started, group.ask_to_leave, SECONDS_TO_SETTLE)
        try:
            with group.fetching_reports(), more:
                finished = _run(train_fn, payload, group.mailbox, world, bundle, f"{name}-{uuid4().hex[:8]}")
        except TrainingFailedError as error:
            if stopped():
                return
            failed = 0 if group.saved else failed + (not _lost_machine(before, error))
            if failed > FAILURES:
                raise FitError(_kind(error)) from None
        else:
            if finished:
                return


def _run(train_fn: TrainFunction, payload: dict[str, Any], mailbox: Any, world: int, bundle: Bundle, name: str) -> bool:
    """Run one group to its end; False when it left before it had finished."""
    with tempfile.TemporaryDirectory() as notes:  # Ray's own, which nothing reads afterwards
        trainer = _Trainer(
            _rank,
            train_loop_config={"train_fn": train_fn, "payload": payload, "mailbox": mailbox},
            scaling_config=ScalingConfig(num_workers=world, use_gpu="GPU" in bundle, resources_per_worker=bundle),
            torch_config=TorchConfig(backend="nccl" if "GPU" in bundle else "gloo"),
            run_config=RunConfig(
                name=name,
                storage_path=notes,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
                logging_config=LoggingConfig(log_level="CRITICAL"),  # it would quote errors, which may quote the data
            ),
        )
        return trainer.fit().return_value is not False


class _Trainer(TorchTrainer):  # type: ignore[misc]  # Ray's is untyped here
    """Leaves SIGINT to its caller: Ray's own handler would end the group without its step and the driver with 1."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Register nothing."""


def _rank(loop: dict[str, Any]) -> bool | None:
    context, mailbox = ray.train.get_context(), loop["mailbox"]
    first = context.get_world_rank() == 0
    if first:
        ray.get(mailbox.start.remote())
    place = {"rank": context.get_world_rank(), "machine": gethostname(), "process": os.getpid()}
    ray.get(mailbox.put.remote(place))

    def preempted() -> bool:
        notice = ray.train.get_preemption_info() is not None
        asked = first and ray.get(mailbox.is_to_leave.remote())
        return bool(ray.train.collective.broadcast_from_rank_zero(notice or asked))

    def report(figures: Figures) -> None:
        # Not through ray.train.report: each call waits for the controller's 2 s poll.
        if first:
            ray.get(mailbox.put.remote(figures))

    if preempted():  # before the model is loaded
        return False
    train_fn: TrainFunction = loop["train_fn"]
    return train_fn(
        loop["payload"],
        world=context.get_world_size(),
        rank=context.get_world_rank(),
        preempted=preempted,
        report=report,
    )


class _Mailbox:
    """Holds the reports until the driver fetches them, and whether the group is asked to leave."""

    def __init__(self) -> None:
        """Nothing has been reported or asked."""
        self.waiting: list[Figures] = []
        self.started = self.leave = False

    def put(self, figures: Figures) -> None:
        self.waiting.append(figures)

    def take(self) -> tuple[bool, list[Figures]]:
        taken, self.waiting = self.waiting, []
        return self.started, taken

    def start(self) -> None:
        self.started = True

    def ask_to_leave(self) -> None:
        self.leave = True

    def is_to_leave(self) -> bool:
        return self.leave


class _Group:
    """The driver's end of one group's mailbox."""

    def __init__(self, on_report: OnReport, stopped: Callable[[], bool]) -> None:
        """Start the mailbox on the driver's own machine, which outlives the spot ones."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=here).remote()
        self.on_report, self.stopped, self.saved, self.started = on_report, stopped, False, False
        self.refused: Exception | None = None  # what `on_report` raised: a closed pipe, a full disk

    def has_started(self) -> bool:
        return self.started

    def ask_to_leave(self) -> None:
        ray.get(self.mailbox.ask_to_leave.remote())

    def fetch(self) -> None:
        self.started, reports = ray.get(self.mailbox.take.remote())
        for figures in reports:
            self.saved |= "checkpoint" in figures
            self.on_report(figures)

    @contextmanager
    def fetching_reports(self) -> Iterator[None]:
        """Hand the reports to `on_report` while the block runs, the last of them at its end.

        What `on_report` raises makes the group save and leave, and is raised at the end of the block.
        """
        ended = threading.Event()

        def fetch_until_the_end() -> None:
            while not ended.wait(SECONDS_BETWEEN_MAILS):
                try:
                    self.fetch()
                except Exception as error:  # noqa: BLE001  a thread has nobody above it: the block raises it
                    self.refused = error
                if self.refused or self.stopped():
                    self.ask_to_leave()
                if self.refused:
                    return

        thread = threading.Thread(target=fetch_until_the_end, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if not self.refused:
                self.fetch()
            ray.kill(self.mailbox)
            if self.refused:
                raise self.refused


def _other_machines() -> set[str]:
    """The ids of the nodes that are alive, without this one."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {ray.get_runtime_context().get_node_id()}


def _lost_machine(before: set[str], error: TrainingFailedError) -> bool:
    """Whether one of the machines of `before` has gone; when an actor died, the head may need a while to know why."""
    if isinstance(error, PreemptionError):
        return True
    died = any(isinstance(cause, RayActorError) for cause in _causes(error))
    end = time.monotonic() + (SECONDS_TO_MISS_A_MACHINE if died and before else 0)
    while not before - _other_machines():
        if time.monotonic() >= end:
            return False
        time.sleep(1)
    return True


def _causes(error: BaseException) -> list[BaseException]:
    causes = list(getattr(error, "worker_failures", {}).values()) or [
        getattr(error, "controller_failure", None) or error.__cause__ or error
    ]
    return [getattr(cause, "cause", None) or cause for cause in causes]


def _kind(error: BaseException) -> str:
    """The types of an error and of what caused it."""
    return ", ".join(sorted({type(cause).__name__ for cause in _causes(error)}))
