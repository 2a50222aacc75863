import dataclasses

import numpy as np
import pytest

from ckd.errors import ArtifactError
from ckd.evaluation.scores import align, read_split, texts
from ckd.visits.labels import NUM_LABELS
from ckd.visits.visit import group_key
from tests.evaluation.evaluation_cohort import as_lists, make_visits, noisy, write_cohort, write_stage


@pytest.fixture
def visits():
    return make_visits((50, 30, 40))


def test_labels_and_probabilities_are_joined_by_visit_id(tmp_path, visits):
    truth = noisy(visits, 1)
    visits[85] = dataclasses.replace(visits[85], current_labels=None)
    visits[90] = dataclasses.replace(visits[90], labels=None)  # unlabeled: not a row of evaluation
    cohort = write_cohort(tmp_path, visits, shard_rows=16)
    write_stage(cohort, "predictions", truth)
    rows = read_split(cohort, "held_out", ["predictions"])
    by_id = {v.visit_id: v for v in visits}
    ids = rows.visit_ids.to_pylist()
    assert sorted(ids) == sorted(v.visit_id for v in visits if v.split == "held_out" and v.labels is not None)
    for row, visit_id in enumerate(ids):
        visit = by_id[visit_id]
        assert tuple(rows.labels[row]) == visit.labels
        assert rows.current_known[row].all() == rows.current_known[row].any() == (visit.current_labels is not None)
        if rows.current_known[row].all():
            assert tuple(rows.current[row]) == visit.current_labels
        assert rows.groups[row] == group_key(visit.subject_id, visit.input)
        assert rows.scores["predictions"][row] == pytest.approx(truth[visit_id])
    assert rows.scores["predictions"].dtype == np.float32
    assert [t for shard in texts(cohort, "held_out") for t in shard] == [by_id[i].input for i in ids]


def test_a_missing_visit_is_named(tmp_path, visits):
    cohort = write_cohort(tmp_path, visits)
    write_stage(cohort, "predictions", noisy(visits, 1), skip={"held_out-7"})
    read_split(cohort, "tuning", ["predictions"])
    with pytest.raises(
        ArtifactError, match=r"part-0000\d.parquet: .*: 1 of 40 visits are missing, the first is held_out-7"
    ):
        read_split(cohort, "held_out", ["predictions"])


def test_a_missing_part_is_named(tmp_path, visits):
    cohort = write_cohort(tmp_path, visits)
    with pytest.raises(ArtifactError, match="soft_labels first"):
        read_split(cohort, "held_out", ["soft_labels"])


def test_parts_made_differently_are_never_mixed(tmp_path, visits):
    cohort = write_cohort(tmp_path, visits, shard_rows=16)
    write_stage(cohort, "predictions", noisy(visits, 1), fields={"student": "a"})
    last = cohort.select("held_out")[-1]
    other = write_stage(cohort, "other", noisy(visits, 1), fields={"student": "b"})
    other.folder = other.folder.replace("/other", "/predictions")
    other.write(
        last.index,
        write_stage(cohort, "other", noisy(visits, 1)).read(last.index),
        rows=last.rows,
        input_hash=last.text_hash,
    )
    with pytest.raises(ArtifactError, match="student='b'"):
        read_split(cohort, "held_out", ["predictions"])


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_a_value_that_is_no_probability_is_refused(value):
    import pyarrow as pa

    table = pa.table({"visit_id": ["a"], "probabilities": as_lists(np.full((1, NUM_LABELS), value))})
    with pytest.raises(ArtifactError, match="no probability"):
        align(pa.array(["a"]), table, "here")


def test_a_split_without_visits_has_no_rows(tmp_path, visits):
    cohort = write_cohort(tmp_path, [v for v in visits if v.split != "tuning"])
    rows = read_split(cohort, "tuning", ["predictions"])
    assert len(rows) == 0 and rows.scores["predictions"].shape == (0, NUM_LABELS)
