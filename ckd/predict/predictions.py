"""Stage `predictions`: the exported student's logits and probabilities per visit, one part per visits shard."""

import time
from typing import Any

import numpy as np
import pyarrow as pa

from ckd.predict.scorer import load_logits
from ckd.run import Run
from ckd.stage import Step
from ckd.store.artifacts import Fields
from ckd.student.fingerprint import STUDENT
from ckd.student.tokens import TOKENS, token_rows
from ckd.visits.audit import finite, probability
from ckd.visits.columns import lists
from ckd.visits.visit import Shard


class PredictWorker:
    """Predicts one shard per call: visit_id, probabilities and logits, float32 [L] each. Safe to run twice.

    Always in float32: a student is small, and predictions should not depend on the machine.
    """

    def __init__(self, run: Run) -> None:
        self.logits = load_logits(STUDENT.artifact(run).fetched(), "torch", run.config.student.gpus_per_worker)
        self.tokens, self.stage = TOKENS.stage(run), PREDICTIONS.stage(run)

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Commit part `shard.index`; returns index, rows, seconds, tokens."""
        started = time.monotonic()
        table = self.tokens.read(shard.index, ["visit_id", "input_ids"], input_hash=shard.text_hash)
        visits = token_rows(table["input_ids"])
        logits = self.logits(visits)
        probabilities = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        columns = {"visit_id": table["visit_id"], "probabilities": lists(probabilities), "logits": lists(logits)}
        self.stage.write(shard.index, pa.table(columns), rows=shard.rows, input_hash=shard.text_hash)
        tokens = sum(map(len, visits))
        return {"index": shard.index, "rows": shard.rows, "seconds": time.monotonic() - started, "tokens": tokens}


def _fingerprint(run: Run) -> Fields:
    """What the student's folder holds, and how its tokens are made. Raises ArtifactError unless it is this run's."""
    return {"student": STUDENT.require(run).identity(), **TOKENS.stage(run).fields}


PREDICTIONS = Step(
    name="predictions",
    needs=("tokens", "student"),
    command="ckd evaluate",
    label="predict",
    title="Student predicts",
    fingerprint=_fingerprint,
    shards=lambda _, cohort: cohort.select("tuning", "held_out"),
    worker=PredictWorker,
    proves={"logits": finite, "probabilities": probability},
    libraries=lambda _: ["torch", "transformers"],
)
