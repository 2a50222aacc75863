"""Makes the student's predictions for the evaluate job: tokens and predictions of some splits, only what is missing."""

from ckd.predict.predictions import PREDICTIONS
from ckd.run import Run
from ckd.visits.visit import Split
from jobs.console import Console
from jobs.ray_session import require_room
from jobs.shards import make_missing
from jobs.train_student import tokenize


def predict_splits(run: Run, console: Console, splits: tuple[Split, ...]) -> None:
    """Make stage `predictions` for the labelled visits of `splits`. Raises ArtifactError before there is a student."""
    student, wanted = run.config.student, run.cohort.select(*splits)
    shards = PREDICTIONS.missing(run, wanted)
    if shards:
        require_room(run.config, "student")
    tokenize(run, console, wanted)  # of finished predictions too, where they were deleted as damaged
    gpus = student.gpus_per_worker
    make_missing(run, console, PREDICTIONS, shards, workers=student.workers, gpus_per_worker=gpus)
