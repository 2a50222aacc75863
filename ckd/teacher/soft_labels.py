"""Stage `soft_labels`: sigmoid(head(embedding)) per visit, without a second pass of the teacher.

A training visit gets the head of its subject's fold, which was fitted without that subject (the final head with
head.cross_fitted=false); all others get the final head. With teacher.adapter_share the adapter's train subjects get
soft labels too, but ckd.student.examples leaves them out.
"""

import heapq
import time
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from ckd.run import Run
from ckd.stage import Step
from ckd.store.artifacts import Fields
from ckd.teacher.embed import EMBEDDINGS, shards_to_embed
from ckd.teacher.head import HEAD, EmbeddingReader, load_heads
from ckd.visits.audit import finite, probability
from ckd.visits.columns import lists, matrix
from ckd.visits.splits import of_adapter
from ckd.visits.visit import Shard, Source, Split


def _fingerprint(run: Run) -> Fields:
    """The head's identity, which covers embeddings, labels and seed; and head.cross_fitted where it is false."""
    in_sample: Fields = {} if run.config.head.cross_fitted else {"head.cross_fitted": False}
    return {"head": HEAD.require(run).identity(), **in_sample}


class SoftLabelWorker:
    """Labels one shard per call from its stored embeddings. Safe to run twice on a shard."""

    def __init__(self, run: Run) -> None:
        """Read the finished head. Raises ArtifactError when there is none."""
        self.cross_fitted, self.cohort = run.config.head.cross_fitted, run.cohort
        self.stage, self.heads = SOFT_LABELS.stage(run), load_heads(HEAD.artifact(run))
        self.read = EmbeddingReader(run.cohort, EMBEDDINGS.stage(run))

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Write part `shard.index`: visit_id, probabilities, logits (float32 [L] each), out_of_fold."""
        started = time.monotonic()
        visits = self.cohort.read(shard, ["visit_id", "group"])
        crossed = self.cross_fitted and shard.split == "train"
        final = np.full(shard.rows, self.heads.final)
        heads = self.heads.folds.assign(visits["group"].to_numpy()) if crossed else final
        logits = self.heads.logits(self.read.vectors(shard), heads)
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        table = pa.table(
            {
                "visit_id": visits["visit_id"],
                "probabilities": lists(probabilities.astype(np.float32)),
                "logits": lists(logits),
                "out_of_fold": pa.array(np.full(shard.rows, crossed)),
            }
        )
        self.stage.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)
        return {"index": shard.index, "rows": shard.rows, "seconds": time.monotonic() - started}


SOFT_LABELS = Step(
    name="soft_labels",
    needs=("embeddings", "head"),
    command="ckd soft-labels",
    label="soft-labels",
    title="Soft labels",
    fingerprint=_fingerprint,
    shards=shards_to_embed,
    worker=SoftLabelWorker,
    proves={"logits": finite, "probabilities": probability},
    libraries=lambda _: ["numpy"],
)


def public_rows(run: Run, split: Split) -> Iterator[dict[str, Any]]:
    """Rows (instruction, input, labels, probabilities) of one public file in the order of its source, streamed.

    With data.tuning given, name_train.json and name_val.json are data.train and data.tuning as they were read, whatever
    split their rows went to; without it they are the splits train and tuning. Train visits of the adapter's subjects
    (teacher.adapter_share) are left out.
    """
    source: Source | None = split if run.config.data.tuning else None
    shards = [s for s in run.cohort.select() if source or s.split == split]
    groups = [[s for s in shards if s.split == name] for name in sorted({s.split for s in shards})]
    return heapq.merge(*(_rows(run, group, source) for group in groups), key=itemgetter("order"))


def _rows(run: Run, shards: list[Shard], source: Source | None) -> Iterator[dict[str, Any]]:
    stage, share = SOFT_LABELS.stage(run), run.config.teacher.adapter_share
    for shard in shards:
        visits = run.cohort.read(shard, ["instruction", "input", "labels", "source", "line", "group"]).to_pylist()
        spent = of_adapter([visit.pop("group") for visit in visits], share if shard.split == "train" else 0)
        probabilities = matrix(stage.read(shard.index, ["probabilities"], input_hash=shard.text_hash)["probabilities"])
        for visit, row, left_out in zip(visits, probabilities, spent, strict=True):
            if not left_out and (source is None or visit["source"] == source):
                yield {**visit, "order": (visit["source"], visit["line"]), "probabilities": row}
