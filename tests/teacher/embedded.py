"""Test data: small cohorts with embeddings that are already there, so that head and soft labels need no teacher."""

import numpy as np
import pyarrow as pa

from ckd.configfile import load
from ckd.store.artifacts import Stage
from ckd.visits import cohort as cohorts
from ckd.visits.labels import CCS25
from ckd.visits.visit import Visit


def visits(splits, seed=0, per_subject=2, mark="", task=CCS25):
    """One visit per entry of `splits`; subjects have `per_subject` consecutive visits of one split."""
    rng = np.random.default_rng(seed)
    for n, split in enumerate(splits):
        labels = tuple(bool(x) for x in rng.random(len(task)) < 0.3)
        yield Visit(
            f"v{n}",
            task.question,
            f"text {n} {mark}",
            labels,
            f"s{split}{n // per_subject}",
            split,
            labels,
            source="train",
            line=n + 1,
        )


def embedded(root, rows, seed=0, hidden=6, shard_rows=16, overrides=(), task=CCS25):
    """(config, cohort, embedding stage) below `root`; embeddings depend on visit_id alone."""
    config = load(None, [f"run.results={root}", f"run.public_files={root}", "run.name=t", *overrides])
    cohort = cohorts.commit(
        config.run.artifacts_root,
        rows,
        fields={},
        shard_rows=shard_rows,
        facts={"quarantined": 0, "teacher_saw_held_out": False, "grouped_by": "subject"},
        task=task,
    )
    stage = Stage(config.run.artifacts_root, "embeddings", {"model": "none"})
    for shard in cohort.shards:
        ids = cohort.read(shard, ["visit_id"])["visit_id"]
        values = np.stack(
            [np.random.default_rng([seed, int(i[1:])]).normal(2, 3, hidden) for i in ids.to_pylist()]
        ).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), hidden)
        stage.write(
            shard.index, pa.table({"visit_id": ids, "embedding": column}), rows=shard.rows, input_hash=shard.text_hash
        )
    return config, cohort, stage
