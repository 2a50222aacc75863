"""Job: the whole pipeline, stage after stage. Every stage does only what is missing, so running it again continues."""

import sys
from contextlib import AbstractContextManager, nullcontext

from ckd.config import Config
from ckd.store.files import exists
from ckd.student.fingerprint import token_fields
from ckd.teacher.embed import teacher_fields
from ckd.visits.intake import configured_inputs
from jobs import embed, evaluate, report, soft_labels, train_head, train_student
from jobs.cli import main
from jobs.console import Console

STAGES = (embed, train_head, soft_labels, train_student, evaluate, report)


def run(config: Config, console: Console) -> None:
    """Visits to metrics and report. Inputs, models and a writable run.results are looked for before the first stage: before the teacher's pass.

    Raises UnreachableError when storage does not answer.
    """
    if configured_inputs(config.data):  # without any, the first stage says what is missing
        teacher_fields(config.teacher)
        token_fields(config)
    for place in (config.run.artifacts_root, config.run.public_files):
        exists(place)
    console.event("run")
    console.upload()
    with _ray(config):
        for stage in STAGES:
            stage.run(config, console)
            console.upload()


def _ray(config: Config) -> AbstractContextManager[None]:
    """One Ray session for all stages that ask for workers; none, and no import of Ray, where all run in this process."""
    workers = max(config.teacher.workers.max, config.student.workers.max)
    if not workers:
        return nullcontext()
    from cluster.session import session

    return session(cpus=workers + 1)


if __name__ == "__main__":
    raise SystemExit(main(["run", *sys.argv[1:]]))
