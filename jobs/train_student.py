"""Job: tokenise, train the student (in this process, or on Ray ranks with DeepSpeed), export the best epoch. Continues where it stopped."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

from ckd import errors
from ckd.config import Config, absolute
from ckd.errors import CkdError, IncompleteError
from ckd.store.artifacts import Fields, FolderArtifact, Stage
from ckd.store.files import digest, exists, size_and_hash
from ckd.student.fingerprint import student_artifact, student_fields, token_fields, training_shards
from ckd.student.tokens import STAGE as TOKENS
from ckd.student.tokens import TokenWorker
from ckd.visits.public_files import student_file
from ckd.visits.visit import Shard
from jobs.cli import main
from jobs.console import SECONDS_BETWEEN_LINES, Console
from jobs.shards import map_worker
from jobs.stages import open_cohort


def run(config: Config, console: Console) -> None:
    """Train and export unless that is done. Raises ArtifactError when soft labels are missing or a setting changed, IncompleteError when stopped."""
    config = absolute(config)
    cohort = open_cohort(config)
    fields = student_fields(config, cohort)
    artifact = student_artifact(config, fields)
    if artifact.is_done():
        console.say(f"train-student: {artifact.folder} is done")
        _restore_public(config, console, artifact)
        return
    tokenize(config, console, [*training_shards(config, cohort), *cohort.select("tuning")])
    reports = Reports(console)
    if config.student.workers.in_process:
        _train_here(config, reports)
    else:
        _train_on_ray(config, fields, reports)
    from ckd.student.export import export

    folder = export(config, fields, console.say)
    console.say(f"train-student: wrote {folder}")
    console.event("student_done", folder=folder)


def _restore_public(config: Config, console: Console, artifact: FolderArtifact) -> None:
    """Another run with the same run.results and hard_weight may have written its best_model.pt since."""
    path = student_file(config.run.results, config.student.hard_weight)
    recorded = (artifact.load() or {})["extra"]["best_model"]
    if not exists(path) or size_and_hash(path) != recorded:
        from ckd.student.export import write_public

        write_public(config)
        console.say(f"train-student: wrote {path} again, it was missing or another run's")


def tokenize(config: Config, console: Console, shards: list[Shard]) -> None:
    """Make the parts of stage `tokens` that are missing."""
    stage = Stage(config.run.artifacts_root, TOKENS, token_fields(config))
    missing = [s for s in shards if not stage.is_done(s.index, rows=s.rows, input_hash=s.text_hash)]
    if not missing:
        return
    kwargs = {"config": config, "fields": stage.fields}
    rows = map_worker(console, "tokens", TokenWorker, kwargs, missing, workers=config.student.workers)
    truncated, visits = sum(row["truncated"] for row in rows), sum(row["rows"] for row in rows)
    if truncated:
        console.say(
            f"tokens: {truncated:,} of {visits:,} visits exceeded student.max_length={config.student.max_length} "
            "and lost text from their end"
        )
    console.event("tokens_done", visits=visits, truncated=truncated)


class Reports:
    """What training says on the way, as lines and events."""

    def __init__(self, console: Console) -> None:
        self.console, self.said = console, time.monotonic()
        self.refusal: CkdError | None = None
        self.step = self.saved = 0  # the last that was heard of

    def __call__(self, figures: dict[str, Any]) -> None:
        """Take one report of ckd.student.train or cluster.fit, or {"refused", "kind"} of a rank."""
        self.step = figures.get("step", self.step)
        if "line" in figures:
            self.console.say(figures["line"])
        elif "started" in figures:
            self.console.event(
                "student_started",
                step=figures["started"],
                workers=figures["world"],
                repeated=max(self.step - figures["started"], 0),
            )
            self.step = figures["started"]
        elif "waiting" in figures:
            self.console.say(
                f"train-student: waiting for room for {figures['waiting']} workers, there is room for {figures['room']}"
            )
        elif "refused" in figures:
            self.refusal = getattr(errors, figures["kind"])(figures["refused"])
        elif "epoch" in figures:
            self.console.event("student_epoch", **figures)
            self.console.say(
                f"train-student: epoch {figures['epoch']}, {figures['metric']} {figures['tuning_score']:.4f}, best epoch {figures['best_epoch']}"
            )
        elif "checkpoint" in figures:
            self.saved = figures["checkpoint"]
            self.console.event("student_checkpoint", **figures)
        else:
            self._step(figures)

    def _step(self, figures: dict[str, Any]) -> None:
        self.console.event("student_step", **figures)
        if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            where = f"step {figures['step']:,}/{figures['steps']:,}, loss {figures['loss']:.4f}"
            self.console.say(
                f"train-student: {where}, {figures['visits_per_s']:,.1f} visits/s, at most {figures['seconds_left']} s left"
            )


def _train_here(config: Config, reports: Reports) -> None:
    from ckd.student.train import train

    with _termination() as asked:
        finished = train(config, world=1, rank=0, preempted=lambda: bool(asked), report=reports, deepspeed=False)
    if not finished:
        raise IncompleteError(
            f"train-student: stopped after step {reports.saved}, which is saved; run the same command again to continue"
        )


@contextmanager
def _termination() -> Iterator[list[int]]:
    """Collects SIGTERM instead of dying of it, so that the step in progress can be saved."""
    received: list[int] = []
    if current_thread() is not main_thread():
        yield received
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _train_on_ray(config: Config, fields: Fields, reports: Reports) -> None:
    from ckd.student.checkpoint import Checkpoints
    from cluster.fit import FitError, fit
    from cluster.session import session

    Checkpoints(config.run.artifacts_root, fields, None).refuse_other()  # a changed setting, before any rank starts
    workers = config.student.workers
    with session(cpus=workers.max):
        try:
            fit(
                rank_main,
                {"config": config.model_dump()},
                workers=(max(workers.min, 1), workers.max),
                gpus_per_worker=config.student.gpus_per_worker,
                name=f"student-{digest(dict(fields))}",
                on_report=reports,
            )
        except FitError as error:
            raise reports.refusal or IncompleteError(
                f"train-student: the training group failed again and again ({error}); its checkpoints are kept, run the same command again"
            ) from error
    if reports.refusal:
        raise reports.refusal


def rank_main(payload: dict[str, Any], *, world: int, rank: int, preempted: Any, report: Any) -> bool:
    """One rank, on whatever machine Ray put it; False when it left early. A user error, which a new group would only meet again, becomes a report."""
    from ckd.student.train import train

    config = Config.model_validate(payload["config"])
    try:
        return train(config, world=world, rank=rank, preempted=preempted, report=report, deepspeed=True)
    except CkdError as error:
        report({"refused": str(error), "kind": type(error).__name__})
        return True


if __name__ == "__main__":
    raise SystemExit(main(["train-student", *sys.argv[1:]]))
