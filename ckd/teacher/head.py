"""The linear heads of L labels on stored embeddings: how they are stored and applied.

There are K fold heads and the final one. Nothing here needs torch; head_fit.py fits them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ckd.errors import ArtifactError
from ckd.run import Run, deciding
from ckd.stage import FolderStep
from ckd.store.artifacts import Fields, FolderArtifact, Stage
from ckd.store.files import digest, join, read_bytes, write_bytes
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.folds import Folds
from ckd.visits.cohort import Cohort
from ckd.visits.columns import cells, joined, matrix
from ckd.visits.splits import of_adapter
from ckd.visits.visit import Shard

_FILE = "head.safetensors"


@dataclass
class Heads:
    """float32 weight [K+1, L, hidden] and bias [K+1, L] on raw embeddings; the last, final head is fitted on all."""

    weight: np.ndarray
    bias: np.ndarray
    folds: Folds
    report: dict[str, Any] = field(default_factory=dict)

    def logits(self, embeddings: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """float32 [n, L]: row i's logits from head `heads[i]` (K is the final head)."""
        out = np.empty((len(embeddings), self.bias.shape[1]), np.float32)
        for head in np.unique(heads):
            rows = heads == head
            out[rows] = embeddings[rows] @ self.weight[head].T + self.bias[head]
        return out

    @property
    def final(self) -> int:
        """The final head's index."""
        return len(self.weight) - 1


def head_fields(run: Run) -> Fields:
    """The head's fingerprint; without head.cross_fitted, which only says which head a visit gets."""
    share = run.config.teacher.adapter_share
    return {
        "visits": run.stored.identity,
        "embeddings": digest(EMBEDDINGS.stage(run).fields),
        "seed": run.config.seed,
        **deciding(run.config, "head", "cross_fitted"),
        **({"teacher.adapter_share": share} if share else {}),
    }


HEAD = FolderStep(
    name="head",
    needs=("visits", "embeddings"),
    command="ckd train-head",
    fingerprint=head_fields,
    folder=lambda run: join(run.root, "head"),
    libraries=["torch"],
)


def save_heads(artifact: FolderArtifact, heads: Heads, public_file: str) -> None:
    """Write head.safetensors and commit the folder with the report and `public_file`, which is there already."""
    tensors = {"weight": heads.weight, "bias": heads.bias, "fold_keys": heads.folds.keys}
    write_bytes(join(artifact.folder, _FILE), save_tensors(tensors))
    artifact.commit([_FILE, public_file], {**heads.report, "fold_seed": heads.folds.seed})


def load_heads(artifact: FolderArtifact) -> Heads:
    """The heads that `save_heads` wrote; raises ArtifactError when they have not been trained, or are damaged."""
    content = artifact.load()
    if content is None:
        raise ArtifactError(f"{artifact.folder}: no head has been trained there; run 'ckd train-head' first")
    artifact.verify()
    tensors = load_tensors(read_bytes(join(artifact.folder, _FILE)))
    extra = content["extra"]
    folds = Folds(tensors["fold_keys"], extra["folds"], extra["fold_seed"])
    return Heads(tensors["weight"], tensors["bias"], folds, extra)


class EmbeddingReader:
    """Embedded shards as arrays, joined to their visits by visit_id."""

    def __init__(self, cohort: Cohort, stage: Stage, adapter_share: float = 0) -> None:
        """`adapter_share`: the share of the train subjects that `labeled` leaves out, the adapter's."""
        self.cohort, self.stage, self.adapter_share = cohort, stage, adapter_share

    def vectors(self, shard: Shard) -> np.ndarray:
        """embeddings float32 [n, hidden] in the shard's order. Raises ArtifactError when ids differ."""
        part = self.stage.read(shard.index, ["visit_id", "embedding"], input_hash=shard.text_hash)
        ids = self.cohort.read(shard, ["visit_id"])["visit_id"]
        return matrix(joined(part, ids, self.stage.path(shard.index))["embedding"])

    def labeled(self, shard: Shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A labelled shard without the adapter's train subjects.

        Embeddings float32 [n, hidden], labels float32 [n, L] (NaN: unknown), group keys uint64 [n].
        """
        visits = self.cohort.read(shard, ["labels", "group"])
        x, y, groups = self.vectors(shard), cells(visits["labels"]), visits["group"].to_numpy()
        if shard.split != "train" or not self.adapter_share:
            return x, y, groups
        kept = ~of_adapter(groups, self.adapter_share)
        return x[kept], y[kept], groups[kept]
