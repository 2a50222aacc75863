"""Job: tokenise, train the student in this process or on Ray ranks with DeepSpeed, export the best epoch.
Continues where it stopped."""

import time
from argparse import Namespace
from typing import Any

from ckd import errors
from ckd.config import Config
from ckd.errors import CkdError, IncompleteError
from ckd.run import Run
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import digest, exists, join, size_and_hash
from ckd.store.lease import lease
from ckd.store.unwritable import writing
from ckd.student.checkpoint import CHECKPOINTS, Checkpoints
from ckd.student.fingerprint import STUDENT, training_shards
from ckd.student.tokens import TOKENS
from ckd.visits.public_files import student_file
from ckd.visits.visit import Shard
from jobs.actors import MOST_LINES
from jobs.console import SECONDS_BETWEEN_LINES, Console
from jobs.ray_session import ray_session, require_room
from jobs.shards import make_missing
from jobs.stopping import KEPT, saving


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Train and export unless that is done.

    Raises ArtifactError when soft labels are missing or a setting changed, IncompleteError when stopped, TakenError
    when another command trains this student.
    """
    work(Run(config), console)


def work(run: Run, console: Console) -> None:
    """As `run`, on a run whose visits may be known already."""
    cohort, artifact = run.cohort, STUDENT.artifact(run)
    done = artifact.is_done()
    if not done:
        require_room(run.config, "student")
    tokenize(run, console, [*training_shards(run.config, cohort), *cohort.select("tuning")])  # what was deleted too
    if not done:
        with lease(join(run.root, CHECKPOINTS), "ckd train-student"):
            if not artifact.is_done():  # another command may have ended meanwhile
                _train(run, console)
                return
    console.say(f"train-student: {artifact.folder} is done")
    _restore_public(run, console, artifact)


def _train(run: Run, console: Console) -> None:
    reports = Reports(console)
    if run.config.student.workers.in_process:
        _train_here(run, reports)
    else:
        _train_on_ray(run, reports)
    from ckd.student.export import export

    folder = export(run, console.say)
    console.say(f"train-student: wrote {folder}")
    console.event("student_done", folder=folder)


def _restore_public(run: Run, console: Console, artifact: FolderArtifact) -> None:
    """Write best_model.pt again where it is missing or changed. Raises ConfigError when it is another run's."""
    path = student_file(run.config.run.public_results, run.config.student.hard_weight)
    recorded = (artifact.load() or {})["extra"]["best_model"]
    if not exists(path) or size_and_hash(path) != recorded:
        from ckd.student.export import write_public

        write_public(run)
        console.say(f"train-student: wrote {path} again, it was missing or changed")


def tokenize(run: Run, console: Console, shards: list[Shard]) -> None:
    """Make the parts of stage `tokens` that are missing."""
    student = run.config.student
    rows = make_missing(run, console, TOKENS, shards, workers=student.workers).rows
    if not rows:
        return
    truncated, visits = sum(row["truncated"] for row in rows), sum(row["rows"] for row in rows)
    if truncated:
        console.say(
            f"tokens: {truncated:,} of {visits:,} visits exceeded student.max_length={student.max_length} "
            "and lost text from their end"
        )
    unknown, tokens = sum(row["unknown"] for row in rows), sum(row["tokens"] for row in rows)
    if unknown:
        console.say(f"tokens: {unknown / tokens:.2%} of {tokens:,} tokens are unknown to the tokenizer ([UNK])")
    console.event("tokens_done", visits=visits, truncated=truncated, unknown=unknown)


class Reports:
    """Turns what training reports into lines and events."""

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
                f"train-student: waiting for room for {figures['waiting']} workers, there is room for "
                f"{figures['room']}: {figures['lacking']}"
            )
        elif "rank" in figures:
            self._rank(figures)
        elif "refused" in figures:
            self.refusal = getattr(errors, figures["kind"])(figures["refused"])
        elif "epoch" in figures:
            self.console.event("student_epoch", **figures)
            self.console.say(
                f"train-student: epoch {figures['epoch']}, {figures['metric']} {figures['tuning_score']:.4f}, "
                f"best epoch {figures['best_epoch']}"
            )
        elif "checkpoint" in figures:
            self.saved = figures["checkpoint"]
            self.console.event("student_checkpoint", **figures)
        else:
            self._step(figures)

    def _rank(self, figures: dict[str, Any]) -> None:
        self.console.event("student_rank", **figures)
        if figures["rank"] < MOST_LINES:
            self.console.say(
                f"train-student: rank {figures['rank']} is process {figures['process']} on {figures['machine']}"
            )

    def kept(self) -> str:
        """What is kept when training is stopped now."""
        return f"step {self.saved:,} of the student is saved" if self.saved else KEPT

    def _step(self, figures: dict[str, Any]) -> None:
        self.console.event("student_step", **figures)
        if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            where = f"step {figures['step']:,}/{figures['steps']:,}, loss {figures['loss']:.4f}"
            self.console.say(
                f"train-student: {where}, {figures['visits_per_s']:,.1f} visits/s, "
                f"at most {figures['seconds_left']} s left"
            )


def _train_here(run: Run, reports: Reports) -> None:
    from ckd.student.train import train

    with saving(reports.kept) as asked:
        train(run, world=1, rank=0, preempted=asked, report=reports, deepspeed=False)


def _train_on_ray(run: Run, reports: Reports) -> None:
    from cluster.fit import FitError, fit

    fields = STUDENT.artifact(run).fields
    Checkpoints(run.root, fields, None).refuse_other()  # a changed setting, before any rank starts
    student = run.config.student
    workers = student.workers
    reports.console.say(f"train-student: DeepSpeed ZeRO stage {student.zero_stage} on {workers} ranks")
    with ray_session(workers.max), saving(reports.kept) as asked:
        try:
            fit(
                rank_main,
                {"run": run.elsewhere()},
                workers=(max(workers.min, 1), workers.max),
                gpus_per_worker=student.gpus_per_worker,
                name=f"student-{digest(dict(fields))}",
                on_report=reports,
                stopped=asked,
            )
        except FitError as error:
            raise reports.refusal or IncompleteError(
                f"train-student: the training group failed again and again ({error}); "
                "its checkpoints are kept, run the same command again"
            ) from error
    if reports.refusal:
        raise reports.refusal


def rank_main(payload: dict[str, Any], *, world: int, rank: int, preempted: Any, report: Any) -> bool:
    """Train as one rank on a machine of the cluster; False when it left early.

    A user error becomes a report: a new group would only meet it again.
    """
    from ckd.student.train import train

    try:
        with writing():
            return train(payload["run"], world=world, rank=rank, preempted=preempted, report=report, deepspeed=True)
    except CkdError as error:
        report({"refused": str(error), "kind": type(error).__name__})
        return True
