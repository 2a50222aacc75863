"""The sums of the treatment association and the drugs chosen by them: against plain Python, no fold leaks."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd.ehr.association import DRUG_SUMS, FRAMES, TOTAL_SUMS, Stats, merge, pooled, statistics, tables
from ckd.ehr.association_table import SCHEMA, measures, published
from ckd.visits.labels import DISEASES
from tests.ehr.association_reference import (
    FOLDS,
    NAMES,
    cohorts,
    drugs_by_hand,
    frames,
    lift_by_hand,
    made,
    supported_by_hand,
    table_by_hand,
    totals_by_hand,
)


def as_dict(frame, keys, sums):
    return {
        row[: len(keys)]: dict(zip(sums, row[len(keys) :], strict=True))
        for row in frame.select(*keys, *sums).iter_rows()
    }


def equal(one, other):
    return all(
        getattr(one, name).equals(getattr(other, name)) and getattr(one, name).schema == getattr(other, name).schema
        for name in FRAMES
    )


@settings(max_examples=60, deadline=None)
@given(cohorts, st.lists(st.integers(0, 2), min_size=9, max_size=9), st.permutations(range(3)))
def test_statistics_equal_plain_python_however_subjects_are_partitioned(visits, partition_of, order):
    parts = [made([visit for visit in visits if partition_of[visit[0]] == part]) for part in order]
    merged = merge(parts)
    assert as_dict(merged.totals, ("fold", "disease"), TOTAL_SUMS) == totals_by_hand(visits)
    assert as_dict(merged.drugs, ("fold", "disease", "drug"), DRUG_SUMS) == drugs_by_hand(visits)
    assert equal(merged, made(visits))
    assert equal(merged, made(visits[::-1]))


@settings(max_examples=40, deadline=None)
@given(cohorts, st.sampled_from(["lift", "count"]), st.integers(1, 4), st.integers(1, 3))
def test_each_table_is_plain_pythons_over_the_other_folds(visits, method, support, top):
    made_tables = tables(made(visits), method=method, min_support=support, top=top, folds=FOLDS, seed=1)
    assert made_tables.all_train == table_by_hand(visits, method, support, top)
    for fold in range(FOLDS):
        assert made_tables.by_fold[fold] == table_by_hand(
            [visit for visit in visits if visit[1] != fold], method, support, top
        )


@settings(max_examples=40, deadline=None)
@given(cohorts, cohorts, st.integers(0, FOLDS - 1), st.sampled_from(["lift", "count", "placebo"]))
def test_a_folds_table_does_not_see_its_own_subjects(visits, others, fold, method):
    kept = [visit for visit in visits if visit[1] != fold]
    changed = kept + [visit for visit in others if visit[1] == fold]
    options = {"method": method, "min_support": 1, "top": 3, "folds": FOLDS, "seed": 5}
    before, after, without = (tables(made(cohort), **options).by_fold[fold] for cohort in (visits, changed, kept))
    assert json.dumps(before) == json.dumps(after) == json.dumps(without)


@settings(max_examples=30, deadline=None)
@given(cohorts, st.integers(1, 3), st.integers(0, 3))
def test_placebo_keeps_diseases_and_numbers_and_draws_supported_drugs(visits, support, seed):
    options = {"min_support": support, "top": 2, "folds": FOLDS, "seed": seed}
    lift, placebo = (tables(made(visits), method=method, **options) for method in ("lift", "placebo"))
    kept = [visits] + [[visit for visit in visits if visit[1] != fold] for fold in range(FOLDS)]
    for real, drawn, cohort in zip(
        (lift.all_train, *lift.by_fold), (placebo.all_train, *placebo.by_fold), kept, strict=True
    ):
        assert [(name, len(drugs)) for name, drugs in drawn.items()] == [
            (name, len(drugs)) for name, drugs in real.items()
        ]
        assert all(
            len(set(drugs)) == len(drugs) and set(drugs) <= supported_by_hand(cohort, support)
            for drugs in drawn.values()
        )
    assert placebo == tables(made(visits[::-1]), method="placebo", **options)


def test_placebo_draws_other_drugs_for_another_seed_and_every_drug_equally_often():
    visits = [
        (i, 0, 1, i % 2, frozenset(f"drug {j}" for j in range(20) if (i + j) % 3 or not i % 2)) for i in range(60)
    ]
    stats = made(visits)
    draws = [
        tables(stats, method="placebo", min_support=1, top=5, folds=1, seed=seed).all_train[DISEASES[0]]
        for seed in range(200)
    ]
    shares = [sum(f"drug {j}" in draw for draw in draws) / len(draws) for j in range(20)]
    assert {len(draw) for draw in draws} == {5}
    assert min(shares) > 0.13 and max(shares) < 0.37  # 0.25 expected, standard error 0.03


def test_none_names_nothing():
    made_tables = tables(made([(0, 0, 1, 0, frozenset("a"))]), method="none", min_support=1, top=5, folds=2, seed=0)
    assert (made_tables.by_fold, made_tables.all_train) == (({}, {}), {})


def test_lift_prefers_the_associated_drug_and_count_the_frequent_one():
    frequent = [(i, 0, 1, i % 2, frozenset(["common"])) for i in range(200)]
    rare = [(1000 + i, 0, 1, i % 10 == 0, frozenset(["rare"])) for i in range(30)]
    stats = made(frequent + rare)
    names = {
        m: tables(stats, method=m, min_support=20, top=1, folds=1, seed=0).all_train[DISEASES[0]]
        for m in ("lift", "count")
    }
    assert names == {"lift": ["rare"], "count": ["common"]}


def test_lift_of_a_drug_given_to_almost_everyone_stays_near_one():
    visits = [(i, 0, 1, i % 2, frozenset(["saline"])) for i in range(400)] + [
        (500 + i, 0, 1, 1, frozenset()) for i in range(2)
    ]
    lift = measures(pooled(made(visits)), 20)["lift"][0]
    assert lift == pytest.approx(float(lift_by_hand(visits, 0, "saline", 20)))
    assert 1 < lift < 1.2  # the two visits without it were never absent next: the raw ratio would be infinite


def test_strings_and_categories_give_the_same_statistics():
    visits = [(i % 9, i % 3, i % 2 | 1 << 24, i % 5, frozenset(NAMES[: i % 4])) for i in range(50)]
    names, drugs = frames(visits, subject=pl.String)
    assert equal(statistics(names, drugs.with_columns(pl.col("drug").cast(pl.Categorical))), made(visits))


def test_drugs_of_visits_that_are_not_given_count_for_nothing():
    train = [(i % 9, i % 3, 1, i % 2, frozenset(NAMES[: i % 4])) for i in range(50)]
    visits, drugs = frames(train, first_key=1000)
    strangers = pl.DataFrame(
        {"visit": [0, 999, 1050, 4_000_000_000], "drug": ["a", "unseen", "b", "unseen"]}, schema=drugs.schema
    )
    assert equal(statistics(visits, pl.concat([strangers, drugs])), made(train))


@pytest.mark.parametrize(
    "visits",
    [[], [(0, 0, 1, 0, frozenset())], [(0, 0, 0, 1, frozenset(["a"]))]],
    ids=["no pair", "no drug", "no disease"],
)
def test_nothing_to_associate_gives_empty_tables_of_the_same_columns(visits):
    stats, usual = made(visits), made([(0, 0, 1, 0, frozenset(["a"]))])
    assert stats.drugs.is_empty()
    assert all(getattr(stats, name).schema == getattr(usual, name).schema for name in FRAMES)
    assert all(
        not tables(stats, method=method, min_support=1, top=5, folds=2, seed=0).all_train
        for method in ("lift", "count", "placebo")
    )
    table = published(stats, min_support=1, chosen={})
    assert table.is_empty() and dict(table.schema) == SCHEMA
    assert equal(merge([]), made([]))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_statistics_survive_a_file(tmp_path, suffix):
    stats = made([(i % 9, i % 3, 1, i % 2, frozenset(NAMES[: i % 4])) for i in range(50)])
    for name in FRAMES:
        frame, path = getattr(stats, name), tmp_path / f"{name}.{suffix}"
        frame.write_parquet(path) if suffix == "parquet" else frame.write_ipc(path)
    read = {"parquet": pl.read_parquet, "arrow": pl.read_ipc}[suffix]
    assert equal(merge(iter([Stats(**{name: read(tmp_path / f"{name}.{suffix}") for name in FRAMES})])), stats)
