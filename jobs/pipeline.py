"""Job: the whole pipeline, stage after stage. Every stage does only what is missing, so running it again continues."""

from argparse import ArgumentParser, Namespace
from contextlib import AbstractContextManager, nullcontext

from ckd.config import Config
from ckd.run import Run
from ckd.store.files import exists, join
from ckd.store.folders import ARTIFACT_FILE
from ckd.student.tokens import TOKENS
from ckd.teacher.embed import EMBEDDINGS
from jobs import embed, evaluate, report, soft_labels, train_head, train_student
from jobs.arguments import share
from jobs.console import Console
from jobs.models import require_student, require_teacher
from jobs.public_files import require_own
from jobs.ray_session import ray_session, require_room, to_do

JOBS = (embed, train_head, soft_labels, train_student, evaluate, report)


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd run`."""
    parser.add_argument("--adapter-share", type=share, metavar="S", help="the same as teacher.adapter_share=S")


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Visits to metrics and report. Inputs, models and storage are checked first, so the teacher's pass is not wasted.

    Raises UnreachableError when storage does not answer.
    """
    one = Run(config)
    unfinished = not exists(join(one.student_folder, ARTIFACT_FILE))
    if one.inputs:  # without any, the first stage says what is missing
        if unfinished:
            require_room(config, *(["teacher"] if to_do(one, EMBEDDINGS) else []), "student")
        EMBEDDINGS.stage(one)
        TOKENS.stage(one)
        if unfinished:
            require_teacher(config)
            require_student(config)
    exists(one.root)
    require_own(one)
    console.event("run")
    console.upload()
    with _ray(config):
        for job in JOBS:
            job.work(one, console)
            console.upload()


def _ray(config: Config) -> AbstractContextManager[None]:
    """One Ray session for all stages that ask for workers; where none does, no session and no import of Ray."""
    workers = max(config.teacher.workers.max, config.student.workers.max)
    if not workers:
        return nullcontext()
    return ray_session(workers + 1)
