"""Predictions of any visits, one part per shard: ids, probabilities, calibrated ones, and the names at thresholds."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ckd.batching import windows
from ckd.predict.modelfolder import ModelFolder
from ckd.predict.scorer import Scorer, Scores
from ckd.store.artifacts import Fields, Stage
from ckd.visits.cohort import Cohort
from ckd.visits.columns import lists
from ckd.visits.task import Task
from ckd.visits.visit import Shard

FORMAT = "ckd predictions 1"
WINDOW = 256  # texts that are tokenised at once: memory is bounded by it
_KEPT = ("visit_id", "subject_id", "prediction_time", "labels")


def scored_fields(model: ModelFolder) -> Fields:
    """The fingerprint of predictions: the model and everything that decides what it says of a text."""
    return {"format": FORMAT, **model.fields}


class ScoreWorker:
    """Predicts one shard per call: `worker(shard)` commits its part. Safe to run twice."""

    def __init__(self, root: str, stage: Stage, folder: str, engine: str, gpus: float) -> None:
        self.scorer = Scorer.load(folder, engine, gpus)
        self.cohort, self.stage = Cohort.open(root), stage

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Commit part `shard.index`; returns index, rows, seconds, tokens, truncated."""
        started = time.monotonic()
        table = self.cohort.read(shard, [*_KEPT, "input"])
        scores = score_all(self.scorer, table["input"].to_pylist())
        self.stage.write(
            shard.index,
            predictions(table.select(_KEPT), scores, self.scorer.model.task),
            rows=shard.rows,
            input_hash=shard.content_hash,
        )
        done = {"index": shard.index, "rows": shard.rows, "seconds": time.monotonic() - started}
        return {**done, "tokens": scores.tokens, "truncated": int(scores.truncated.sum())}


def score_all(scorer: Scorer, texts: Sequence[str]) -> Scores:
    """Score many texts, WINDOW of similar length at a time; the scores are in the order of the texts."""
    order: list[int] = []
    found: list[Scores] = []
    for chosen in windows([len(text) for text in texts], WINDOW):
        order += chosen
        found.append(scorer([texts[i] for i in chosen]))
    back = np.argsort(order)

    def whole(name: str) -> Any:
        pieces = [getattr(scores, name) for scores in found]
        return None if pieces[0] is None else np.concatenate(pieces)[back]

    arrays = {name: whole(name) for name in ("logits", "probabilities", "calibrated", "flags", "truncated")}
    return Scores(**arrays, tokens=sum(scores.tokens for scores in found))


def predictions(visits: pa.Table, scores: Scores, task: Task) -> pa.Table:
    """_KEPT, probabilities, and calibrated and names, which are null without a calibration."""
    rows = len(visits)
    alarms = [None] * rows if scores.flags is None else [task.named(row) for row in scores.flags]
    columns = {
        **{name: visits[name] for name in _KEPT},
        "probabilities": lists(scores.probabilities.astype(np.float32)),
        "calibrated": pa.nulls(rows, pa.list_(pa.float32(), len(task)))
        if scores.calibrated is None
        else lists(scores.calibrated.astype(np.float32)),
        "names": pa.array(alarms, pa.list_(pa.string())),
    }
    return pa.table(columns)
