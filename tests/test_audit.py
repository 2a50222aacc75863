"""verify and status: what is missing, damaged, doubled or out of range is found and named."""

import io

import numpy as np
import pyarrow as pa
import pytest
from embedded import embedded, visits

from ckd import cohort as cohorts
from ckd.audit import audit_ids, audit_stage, audit_values
from ckd.store import Stage
from jobs.console import Console
from jobs.status import plan, run

ROWS = ["train"] * 40 + ["tuning"] * 10 + ["held_out"] * 10


def soft_labels(cohort, change=lambda values: values):
    stage = Stage(cohort.root, "soft_labels", {"head": "h"})
    for shard in cohort.shards:
        values = change(np.full((shard.rows, 25), 0.5, np.float32))
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 25)
        ids = cohort.read(shard, ["visit_id"])["visit_id"]
        stage.write(shard.index, pa.table({"visit_id": ids, "probabilities": column}), rows=shard.rows, input_hash=shard.text_hash)
    return stage


def test_missing_shards_are_listed_and_whole_ones_pass(tmp_path):
    _, cohort, stage = embedded(tmp_path, visits(ROWS))
    stage.delete(1)
    audit = audit_stage(cohort.root, "embeddings", list(cohort.shards))
    assert audit.missing == [1]
    assert audit.damaged == {}
    assert list(audit_values(cohort, audit)) == []
    assert list(audit_ids(cohort)) == []


@pytest.mark.parametrize(("poison", "problem"), [(np.nan, "outside 0..1"), (1.5, "outside 0..1"), (-0.1, "outside 0..1")])
def test_values_out_of_range_are_found(tmp_path, poison, problem):
    _, cohort, _ = embedded(tmp_path, visits(ROWS))

    def change(values):
        values[0, 3] = poison
        return values

    soft_labels(cohort, change)
    found = list(audit_values(cohort, audit_stage(cohort.root, "soft_labels", list(cohort.shards))))
    assert len(found) == len(cohort.shards)
    assert all(f"probabilities has 1 values {problem}" in line for line in found)


def test_swapped_ids_and_foreign_parts_are_found(tmp_path):
    _, cohort, stage = embedded(tmp_path, visits(ROWS))
    first, second, third = cohort.shards[:3]
    stage.write(first.index, stage.read(first.index).take(list(range(first.rows))[::-1]), rows=first.rows, input_hash=first.text_hash)
    stage.write(second.index, stage.read(second.index), rows=second.rows, input_hash="of other visits")
    Stage(cohort.root, "embeddings", {"model": "other"}).write(third.index, stage.read(third.index), rows=third.rows, input_hash=third.text_hash)
    audit = audit_stage(cohort.root, "embeddings", list(cohort.shards))
    assert list(audit.damaged) == [second.index, -1]
    assert "different fingerprints" in audit.damaged[-1]
    assert ["not those of its visits shard" in line for line in audit_values(cohort, audit)] == [True]


def test_a_doubled_visit_id_is_found(tmp_path):
    rows = [*visits(ROWS), next(iter(visits(["train"])))]
    cohort = cohorts.commit(str(tmp_path), rows, fields={}, shard_rows=8, facts={})
    assert ["1 visit_ids stand more than once" in line for line in audit_ids(cohort)] == [True]


def test_status_shows_every_stage_and_shards_done_and_missing(tmp_path):
    config, cohort, stage = embedded(tmp_path, visits(ROWS))
    stage.delete(1)
    stage.delete(2)
    lines = list(plan(config))
    assert "train 40, tuning 10, held_out 10 visits, 0 unlabeled" in lines[1]
    assert [line for line in lines if line.startswith("embeddings")] == [
        f"embeddings   {len(cohort.shards) - 2}/{len(cohort.shards)} shards, missing 1-2"
    ]
    screen = Console(io.StringIO())
    run(config, screen)
    assert screen.stream.getvalue().splitlines() == lines
