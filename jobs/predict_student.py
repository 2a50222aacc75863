"""The student's predictions, for the evaluate job: tokens and predictions of the asked splits, only what is missing."""

from ckd.config import Config, absolute
from ckd.predict.predictions import PredictWorker, prediction_stage
from ckd.visits.cohort import Cohort
from ckd.visits.visit import Split
from jobs.console import Console
from jobs.shards import map_worker
from jobs.train_student import tokenize


def predict_splits(config: Config, console: Console, splits: tuple[Split, ...]) -> None:
    """Make stage `predictions` for the labelled visits of `splits`. Raises ArtifactError before there is a student."""
    config = absolute(config)
    stage = prediction_stage(config)
    shards = Cohort.open(config.run.artifacts_root).select(*splits)
    missing = [s for s in shards if not stage.is_done(s.index, rows=s.rows, input_hash=s.text_hash)]
    tokenize(config, console, missing)
    kwargs = {"config": config, "fields": stage.fields}
    student = config.student
    map_worker(
        console,
        "predict",
        PredictWorker,
        kwargs,
        missing,
        workers=student.workers,
        gpus_per_worker=student.gpus_per_worker,
    )
