"""Stage `predictions`: the exported student's logits and probabilities per visit, one part per visits shard. Scores are evaluation's."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ckd.batching import pad, token_batches
from ckd.run import Run
from ckd.stage import Step
from ckd.store.artifacts import Fields
from ckd.store.folders import fetched_folder
from ckd.student.fingerprint import STUDENT
from ckd.student.tokens import TOKENS, ragged
from ckd.visits.audit import finite, probability
from ckd.visits.columns import lists
from ckd.visits.labels import NUM_LABELS
from ckd.visits.visit import Shard

TOKEN_BUDGET = 16384  # padded tokens per forward pass


class PredictWorker:
    """Predicts one shard per call: visit_id, probabilities and logits (float32 [25] each). Needs stage `tokens`. Safe to run twice.

    Always float32: a student is small, and predictions should not depend on the machine.
    """

    def __init__(self, run: Run) -> None:
        from ckd.student.model import device_of, load_student

        self.device = device_of(run.config.student.gpus_per_worker)
        self.model = load_student(fetched_folder(run.student_folder)).to(self.device).eval()
        self.pad_id = self.model.config.pad_token_id or 0
        self.tokens, self.stage = TOKENS.stage(run), PREDICTIONS.stage(run)

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Commit part `shard.index`; returns index, rows, seconds, tokens."""
        started = time.monotonic()
        table = self.tokens.read(shard.index, ["visit_id", "input_ids"])
        tokens, offsets = ragged(table["input_ids"])
        visits = np.split(tokens.astype(np.int64), offsets[1:-1])
        logits = predict_logits(self.model, self.device, visits, self.pad_id)
        probabilities = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        columns = {"visit_id": table["visit_id"], "probabilities": lists(probabilities), "logits": lists(logits)}
        self.stage.write(shard.index, pa.table(columns), rows=shard.rows, input_hash=shard.text_hash)
        return {"index": shard.index, "rows": shard.rows, "seconds": time.monotonic() - started, "tokens": len(tokens)}


def _fingerprint(run: Run) -> Fields:
    """What the student's folder holds, and how its tokens were made. Raises ArtifactError unless it is this run's student."""
    return {"student": STUDENT.require(run).identity(), **TOKENS.stage(run).fields}


PREDICTIONS = Step(
    name="predictions",
    command="ckd evaluate",
    fingerprint=_fingerprint,
    shards=lambda _, cohort: cohort.select("tuning", "held_out"),
    worker=PredictWorker,
    proves={"logits": finite, "probabilities": probability},
)


def predict_logits(model: Any, device: Any, sequences: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """Logits float32 [n, 25] of token id sequences, in their order; batches of similar length under TOKEN_BUDGET padded tokens."""
    import torch

    logits = np.empty((len(sequences), NUM_LABELS), np.float32)
    with torch.inference_mode():
        for chosen in token_batches([len(s) for s in sequences], TOKEN_BUDGET):
            ids, mask = (torch.from_numpy(a).to(device) for a in pad([sequences[i] for i in chosen], pad_id))
            logits[chosen] = model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()
    return logits
