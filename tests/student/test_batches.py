"""Every visit comes once per epoch, global batches do not depend on the ranks, micro-batches are dealt by length."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd.errors import ArtifactError
from ckd.store.artifacts import Stage
from ckd.student.batches import Batches, collate
from ckd.student.examples import EMBEDDINGS, SOFT_LABELS, Examples, ShardExamples
from ckd.student.order import Order, deal, steps_per_epoch
from ckd.student.ranks import Ranks
from ckd.visits.labels import NUM_LABELS
from ckd.visits.splits import of_adapter
from tests.student.student_cohort import make_cohort, make_visits

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)
lengths = st.lists(st.integers(1, 50), min_size=1, max_size=40)


class MadeUp:
    """Examples without files: shard s holds visits 's-r' of made-up lengths."""

    def __init__(self, sizes: list[int], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = sizes
        self.shards = []
        for number, size in enumerate(sizes):
            long = rng.integers(1, 30, size)
            self.shards.append(
                ShardExamples(
                    visit_ids=[f"{number}-{row}" for row in range(size)],
                    tokens=rng.integers(4, 80, long.sum(), dtype=np.int32),
                    offsets=np.concatenate([[0], np.cumsum(long)]),
                    hard=rng.integers(0, 2, (size, NUM_LABELS)).astype(np.float32),
                    soft_logits=rng.normal(size=(size, NUM_LABELS)).astype(np.float32),
                    hard_weight=np.full(size, 0.9, np.float32),
                    weight=np.ones(size, np.float32),
                    embeddings=np.zeros((size, 0), np.float32),
                )
            )

    def __getitem__(self, position: int) -> ShardExamples:
        return self.shards[position]


def batches(examples, **settings) -> Batches:
    return Batches(examples, **{"seed": 1, "batch_size": 7, "pad_id": 0, **settings})


@given(sizes, st.integers(0, 3), st.integers(0, 3), st.integers(1, 5))
def test_every_visit_comes_once_per_epoch(sizes, seed, epoch, window):
    order = Order(sizes, seed=seed, epoch=epoch, window=window)
    seen = Counter(order.rows(0, len(order)))
    assert seen == Counter((shard, row) for shard, size in enumerate(sizes) for row in range(size))


@given(sizes, st.integers(0, 3), st.integers(1, 5), st.integers(0, 60), st.integers(0, 60))
def test_any_place_of_an_epoch_is_found_directly(sizes, seed, window, start, more):
    whole = Order(sizes, seed=seed, epoch=2, window=window)
    straight = whole.rows(0, len(whole))
    assert Order(sizes, seed=seed, epoch=2, window=window).rows(start, start + more) == straight[start : start + more]


@given(st.lists(st.integers(1, 9), min_size=5, max_size=12), st.integers(1, 4))
def test_only_the_shards_of_one_window_mix(sizes, window):
    order = Order(sizes, seed=0, epoch=0, window=window)
    for number, shards in enumerate(order.windows):
        place = range(int(order.starts[number]), int(order.starts[number + 1]))
        assert {shard for shard, _ in order.rows(place.start, place.stop)} == set(shards.tolist())


def test_epochs_and_seeds_shuffle_differently():
    orders = [tuple(Order([50], seed=seed, epoch=epoch).rows(0, 50)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


@settings(deadline=None)
@given(sizes, st.integers(1, 12), st.integers(1, 5), st.sampled_from([1, 2]))
def test_global_batches_are_the_same_at_any_world_size_and_accumulation(sizes, batch_size, world, accumulation):
    examples = MadeUp(sizes)
    alone = batches(examples, batch_size=batch_size)
    ranks = [
        batches(examples, batch_size=batch_size, ranks=Ranks(world, rank), accumulation=accumulation)
        for rank in range(world)
    ]
    for step in range(alone.steps):
        dealt = [row for rank in ranks for slot in range(accumulation) for row in rank.micro_rows(0, step, slot)]
        ids = [examples[shard].visit_ids[row] for shard, row in dealt]
        assert sorted(ids) == sorted(alone.visit_ids(0, step))
        weight = sum(rank.micro_batch(0, step, slot)["weight"].sum() for rank in ranks for slot in range(accumulation))
        assert weight == len(ids)


@given(lengths, st.integers(1, 4), st.integers(1, 3))
def test_dealing_by_length_shares_visits_evenly(lengths, world, accumulation):
    dealt = deal(lengths, world, accumulation)
    micro = [slot for rank in dealt for slot in rank]
    assert len(dealt) == world and all(len(rank) == accumulation for rank in dealt)
    assert sorted(i for part in micro for i in part) == list(range(len(lengths)))
    assert max(map(len, micro)) - min(map(len, micro)) <= 1
    ranges = sorted((min(lengths[i] for i in part), max(lengths[i] for i in part)) for part in micro if part)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


def test_a_short_last_batch_gives_the_idle_ranks_a_row_of_weight_zero():
    examples = MadeUp([5])
    last = [batches(examples, batch_size=4, ranks=Ranks(4, rank)).micro_batch(0, 1, 0) for rank in range(4)]
    assert sorted(float(b["weight"].sum()) for b in last) == [0, 0, 0, 1]
    assert all(len(b["input_ids"]) == 1 for b in last)


def test_micro_batches_hold_the_rows_padded_on_the_right():
    examples = MadeUp([6, 4])
    made = batches(examples, batch_size=5)
    rows, batch = made.micro_rows(0, 1, 0), made.micro_batch(0, 1, 0)
    for i, (shard, row) in enumerate(rows):
        ids = examples[shard].ids(row)
        assert batch["input_ids"][i, : len(ids)].tolist() == ids.tolist()
        assert batch["attention_mask"][i].sum() == len(ids) and not batch["input_ids"][i, len(ids) :].any()
        assert (batch["hard"][i] == examples[shard].hard[row]).all()
        assert (batch["soft_logits"][i] == examples[shard].soft_logits[row]).all()


def test_steps_count_the_short_batch():
    assert [steps_per_epoch(visits, 8) for visits in (1, 8, 9)] == [1, 1, 2]


def write_tokens(cohort, fields, reverse=False):
    stage = Stage(cohort.root, "tokens", fields)
    for shard in cohort.shards:
        ids = cohort.read(shard, ["visit_id"])["visit_id"].to_pylist()
        ids = ids[::-1] if reverse else ids
        tokens = [[2, int(visit.rsplit("-", 1)[1]), 3] for visit in ids]
        table = pa.table({"visit_id": ids, "input_ids": pa.array(tokens, pa.list_(pa.int32()))})
        stage.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)


@pytest.mark.parametrize("reverse", [False, True])
def test_tokens_labels_and_soft_labels_meet_by_visit_id(tmp_path: Path, reverse):
    visits = make_visits("train", 20) + make_visits("train", 5, labeled=False)
    cohort = make_cohort(tmp_path, visits, shard_rows=8)
    write_tokens(cohort, {"a": 1}, reverse)
    labels = {v.visit_id: v.labels for v in visits}
    examples = Examples(
        str(tmp_path), cohort.select("train", labeled=None), {"a": 1}, hard_weight=0.9, teacher=[SOFT_LABELS]
    )
    for position, shard in enumerate(examples.shards):
        found = examples[position]
        soft = Stage(str(tmp_path), "soft_labels", {}).read(shard.index).to_pylist()
        for row, visit_id in enumerate(found.visit_ids):
            assert found.ids(row).tolist() == [2, int(visit_id.rsplit("-", 1)[1]), 3]
            assert np.allclose(found.soft_logits[row], next(r["logits"] for r in soft if r["visit_id"] == visit_id))
            assert found.hard[row].astype(bool).tolist() == list(labels[visit_id] or [False] * NUM_LABELS)
        assert (found.hard_weight == np.float32(0.9 if shard.labeled else 0)).all() and (found.weight == 1).all()


def test_the_adapters_subjects_teach_by_their_true_labels_alone_and_their_unlabeled_visits_not_at_all(tmp_path: Path):
    visits = make_visits("train", 40) + make_visits("train", 20, labeled=False)
    cohort = make_cohort(tmp_path, visits, shard_rows=8)
    write_tokens(cohort, {"a": 1})
    spent = {v.visit_id: bool(of_adapter([v.group], 0.5)[0]) for v in visits}
    examples = Examples(
        str(tmp_path),
        cohort.select("train", labeled=None),
        {"a": 1},
        hard_weight=0.3,
        teacher=[SOFT_LABELS],
        adapter_share=0.5,
    )
    seen = set()
    for position, shard in enumerate(examples.shards):
        batch = collate(examples, [(position, row) for row in range(shard.rows)], 0)
        for row, visit_id in enumerate(examples[position].visit_ids):
            expected = (
                (1.0 if spent[visit_id] else np.float32(0.3), 1.0)
                if shard.labeled
                else (0.0, 0.0 if spent[visit_id] else 1.0)
            )
            assert (batch["hard_weight"][row], batch["weight"][row]) == expected
            seen.add(expected)
    assert len(seen) == 4


def test_the_embeddings_of_the_adapters_subjects_are_not_matched(tmp_path: Path):
    visits = make_visits("train", 40)
    cohort = make_cohort(tmp_path, visits, shard_rows=8)
    write_tokens(cohort, {"a": 1})
    stage = Stage(str(tmp_path), "embeddings", {"model": "made up"})
    for shard in cohort.shards:
        ids = cohort.read(shard, ["visit_id"])["visit_id"]
        column = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(1, 3 * shard.rows + 1), pa.float16()), 3)
        stage.write(
            shard.index, pa.table({"visit_id": ids, "embedding": column}), rows=shard.rows, input_hash=shard.text_hash
        )
    spent = {v.visit_id: bool(of_adapter([v.group], 0.5)[0]) for v in visits}
    examples = Examples(
        str(tmp_path), cohort.shards, {"a": 1}, hard_weight=0.3, teacher=(SOFT_LABELS, EMBEDDINGS), adapter_share=0.5
    )
    whole = Examples(str(tmp_path), cohort.shards, {"a": 1}, hard_weight=0.3, teacher=(SOFT_LABELS, EMBEDDINGS))
    for position in range(len(cohort.shards)):
        found, plain = examples[position].embeddings, whole[position].embeddings
        for row, visit_id in enumerate(examples[position].visit_ids):
            assert (found[row] == (0 if spent[visit_id] else plain[row])).all()
        assert found.dtype == plain.dtype
    assert len(set(spent.values())) == 2


def test_a_soft_label_part_of_other_visits_is_refused(tmp_path: Path):
    cohort = make_cohort(tmp_path, make_visits("train", 8))
    write_tokens(cohort, {})
    stage, shard = Stage(str(tmp_path), "soft_labels", {"head": "made up 0"}), cohort.shards[0]
    table = stage.read(0)
    ids = pa.array(["someone-else", *table["visit_id"].to_pylist()[1:]])
    stage.write(0, table.set_column(0, "visit_id", ids), rows=shard.rows, input_hash=shard.text_hash)
    with pytest.raises(ArtifactError, match=r"part-00000.parquet: holds other visit_ids"):
        Examples(str(tmp_path), cohort.shards, {}, hard_weight=0.9, teacher=[SOFT_LABELS])[0]
