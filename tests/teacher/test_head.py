"""The heads: no label reaches its own fold, the fit agrees with scikit-learn, stored heads take raw embeddings."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ckd.errors import ArtifactError, ConfigError, DataError
from ckd.run import Run
from ckd.teacher.folds import Folds
from ckd.teacher.head import HEAD, EmbeddingReader, head_fields, load_heads, save_heads
from ckd.teacher.head_fit import train_heads
from ckd.visits.labels import NUM_LABELS
from ckd.visits.splits import of_adapter
from tests.teacher.embedded import embedded, visits

SPLITS = ["train"] * 60 + ["tuning"] * 20 + ["held_out"] * 10


TRUTH = np.random.default_rng(0).normal(0, 0.3, (6, NUM_LABELS))


def vector(visit):
    """What tests/teacher/embedded.py embeds, without its mean."""
    return np.random.default_rng([0, int(visit.visit_id[1:])]).normal(2, 3, 6) - 2


def noise(visit):
    return np.random.default_rng([1, int(visit.visit_id[1:])]).normal(0, 3, NUM_LABELS)


def quiet(_):
    pass


def arrays(cohort, stage, split):
    parts = [EmbeddingReader(cohort, stage).labeled(s) for s in cohort.select(split)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def fold_logits(cohort, stage, heads):
    x, _, groups = arrays(cohort, stage, "train")
    return heads.logits(x, heads.folds.assign(groups))


def test_changing_one_training_subjects_labels_changes_no_soft_label_of_its_fold_head(tmp_path):
    rows = [replace(v, labels=tuple((vector(v) @ TRUTH > 0.5 * noise(v)).tolist())) for v in visits(SPLITS)]
    flipped = [replace(v, labels=tuple(not x for x in v.labels)) if v.subject_id == "strain3" else v for v in rows]
    before, after = (
        train_heads(*embedded(tmp_path / name, part), quiet) for name, part in (("a", rows), ("b", flipped))
    )
    subject = rows[6].group
    fold = int(before.folds.assign(np.array([subject], np.uint64))[0])
    assert rows[6].subject_id == "strain3"
    np.testing.assert_array_equal(before.weight[fold], after.weight[fold])
    np.testing.assert_array_equal(before.bias[fold], after.bias[fold])
    assert (before.weight[before.final] != after.weight[after.final]).any()
    others = [k for k in range(before.folds.count) if k != fold]
    assert all((before.weight[k] != after.weight[k]).any() for k in others)


def test_the_new_keys_leave_fingerprints_of_earlier_heads_valid(tmp_path):
    config, _, stage = embedded(tmp_path, visits(SPLITS))
    names = {"batch_size", "epochs", "folds", "l2", "learning_rate"}
    assert {n for n in head_fields(Run(config, {"embeddings": stage.fields})) if n.startswith("head.")} == {
        f"head.{n}" for n in names
    }


def test_held_out_labels_change_nothing_and_tuning_labels_only_the_chosen_epoch(tmp_path):
    rows = list(visits(SPLITS))
    poisoned = [replace(v, labels=tuple(not x for x in v.labels)) if v.split == "held_out" else v for v in rows]
    a, b = (train_heads(*embedded(tmp_path / name, part), quiet) for name, part in (("a", rows), ("b", poisoned)))
    np.testing.assert_array_equal(a.weight, b.weight)
    without = [v for v in rows if v.split != "tuning"]
    last = train_heads(*embedded(tmp_path / "c", without), quiet)
    assert last.report["best_epochs"] == [20] * 6
    assert last.report["adapter_optimism"] is None


def test_the_labels_of_the_adapters_subjects_reach_no_head(tmp_path):
    rows = list(visits(SPLITS))
    share = ["teacher.adapter_share=0.5", "head.folds=3"]
    spent = {v.subject_id for v in rows if v.split == "train" and of_adapter([v.group], 0.5)[0]}
    assert 0 < len(spent) < 30
    flipped = [replace(v, labels=tuple(not x for x in v.labels)) if v.subject_id in spent else v for v in rows]
    before, after = (
        train_heads(*embedded(tmp_path / name, part, overrides=share), quiet)
        for name, part in (("a", rows), ("b", flipped))
    )
    np.testing.assert_array_equal(before.weight, after.weight)
    np.testing.assert_array_equal(before.bias, after.bias)
    assert before.report == after.report
    without = [v for v in rows if v.subject_id not in spent]
    alone = train_heads(*embedded(tmp_path / "c", without, overrides=["head.folds=3"]), quiet)
    assert alone.report["out_of_fold_train_log_loss"] == pytest.approx(
        before.report["out_of_fold_train_log_loss"], abs=0.05
    )
    assert before.folds.keys.tolist() == alone.folds.keys.tolist()


def test_the_adapters_share_is_in_the_heads_fingerprint_and_leaves_that_of_a_run_without_it_as_it_was(tmp_path):
    config, _, stage = embedded(tmp_path, visits(SPLITS))
    shared = config.model_copy(update={"teacher": config.teacher.model_copy(update={"adapter_share": 0.5})})
    plain, split = (head_fields(Run(c, {"embeddings": stage.fields})) for c in (config, shared))
    assert split == {**plain, "teacher.adapter_share": 0.5} and "teacher.adapter_share" not in plain


def test_a_share_that_leaves_the_head_one_subject_is_refused_by_its_name(tmp_path):
    config, cohort, stage = embedded(tmp_path, visits(SPLITS), overrides=["teacher.adapter_share=0.999"])
    with pytest.raises(DataError, match=r"teacher.adapter_share=0.999\), cross-fitting needs at least 2"):
        train_heads(config, cohort, stage, quiet)


def test_tuning_visits_of_one_class_choose_no_epoch(tmp_path):
    config, cohort, stage = embedded(tmp_path, visits(SPLITS))
    heads = train_heads(config, replace(cohort, facts={**cohort.facts, "tuning": "one_class"}), stage, quiet)
    assert heads.report["best_epochs"] == [config.head.epochs] * 6


def test_a_step_size_that_ends_in_nan_is_refused_by_its_name(tmp_path):
    config, cohort, stage = embedded(tmp_path, visits(SPLITS), overrides=["head.learning_rate=1e30", "head.l2=1"])
    with pytest.raises(ConfigError, match="head.learning_rate=1e\\+30: the heads are no longer finite"):
        train_heads(config, cohort, stage, quiet)


def test_the_final_head_is_as_good_as_scikit_learns(tmp_path):
    rng = np.random.default_rng(0)
    rows = list(visits(["train"] * 600 + ["tuning"] * 200, per_subject=1))
    truth = rng.normal(0, 0.3, (6, NUM_LABELS))
    vectors = {v.visit_id: np.random.default_rng([0, int(v.visit_id[1:])]).normal(2, 3, 6) for v in rows}
    rows = [
        replace(
            v, labels=tuple((rng.random(NUM_LABELS) < 1 / (1 + np.exp(-(vectors[v.visit_id] - 2) @ truth))).tolist())
        )
        for v in rows
    ]
    config, cohort, stage = embedded(
        tmp_path, rows, overrides=["head.epochs=60", "head.batch_size=64", "head.learning_rate=0.01"], shard_rows=256
    )
    heads = train_heads(config, cohort, stage, quiet)
    (x, y, _), (tx, ty, _) = arrays(cohort, stage, "train"), arrays(cohort, stage, "tuning")

    def loss(logits, labels):
        return np.mean(np.logaddexp(0, logits) - logits * labels)

    reference = np.stack(
        [LogisticRegression(max_iter=1000).fit(x, y[:, k]).decision_function(tx) for k in range(NUM_LABELS)], 1
    )
    ours = heads.logits(tx, np.full(len(tx), heads.final))
    assert loss(ours, ty) <= loss(reference, ty) * 1.01
    assert heads.report["tuning_log_loss"] == pytest.approx(loss(ours, ty), rel=1e-5)


def test_heads_are_stored_and_read_back_with_their_folds(tmp_path):
    config, cohort, stage = embedded(tmp_path, visits(SPLITS))
    heads = train_heads(config, cohort, stage, quiet)
    artifact = HEAD.artifact(Run(config, {"head": {"a": 1}}))
    (tmp_path / "t/artifacts/head").mkdir()
    (tmp_path / "t/artifacts/head/h.pt").write_bytes(b"x")
    save_heads(artifact, heads, "h.pt")
    again = load_heads(artifact)
    np.testing.assert_array_equal(fold_logits(cohort, stage, again), fold_logits(cohort, stage, heads))
    assert again.report["folds"] == 5
    file = tmp_path / "t/artifacts/head/head.safetensors"
    flipped = bytearray(file.read_bytes())
    flipped[-9] ^= 1  # in a weight, which safetensors reads as another number
    file.write_bytes(flipped)
    with pytest.raises(ArtifactError, match=r"head\.safetensors: missing or changed since it was written"):
        load_heads(artifact)


def test_embeddings_are_joined_by_visit_id_and_those_of_other_visits_are_refused(tmp_path):
    _, cohort, stage = embedded(tmp_path, visits(SPLITS))
    shard, reader = cohort.shards[0], EmbeddingReader(cohort, stage)
    table, vectors = stage.read(shard.index), reader.vectors(shard)
    turned = table.take(list(range(shard.rows))[::-1])
    stage.write(shard.index, turned, rows=shard.rows, input_hash=shard.text_hash)
    assert (reader.vectors(shard) == vectors).all()
    others = turned.set_column(0, "visit_id", table["visit_id"].take([*range(1, shard.rows), 1]))
    stage.write(shard.index, others, rows=shard.rows, input_hash=shard.text_hash)
    with pytest.raises(ArtifactError, match="part-00000.parquet: holds other visit_ids than the visits shard"):
        reader.vectors(shard)


@given(st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=40), st.integers(2, 8), st.integers(0, 5))
def test_folds_are_balanced_and_independent_of_order(groups, count, seed):
    keys = np.array(sorted(groups), np.uint64)
    folds = Folds.of(_Groups(keys), count, seed)
    assigned = folds.assign(keys)
    sizes = np.bincount(assigned, minlength=folds.count)
    assert folds.count == min(count, len(keys))
    assert sizes.max() - sizes.min() <= 1
    shuffled = np.random.default_rng(0).permutation(keys)
    assert dict(zip(keys, assigned, strict=True)) == dict(
        zip(shuffled, Folds.of(_Groups(shuffled), count, seed).assign(shuffled), strict=True)
    )


def test_a_single_training_subject_cannot_be_cross_fitted():
    with pytest.raises(DataError, match="cross-fitting needs at least 2"):
        Folds.of(_Groups(np.array([7, 7], np.uint64)), 5, 0)


class _Groups:
    """A cohort that only knows its training groups."""

    def __init__(self, keys):
        self.keys = keys

    def select(self, split):
        return [0]

    def read(self, shard, columns):
        import pyarrow as pa

        return pa.table({"group": self.keys})
