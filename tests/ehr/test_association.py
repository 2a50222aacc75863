"""The treatment association: against plain Python, its leakage between folds, its interval by simulation, its small cells."""

import json
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd.ehr.association import DRUG_SUMS, FRAMES, TOTAL_SUMS, Stats, merge, pooled, statistics, tables
from ckd.ehr.association_table import COUNTS, RATES, SCHEMA, SMALLEST_CELL, measures, published
from ckd.visits.labels import DISEASES, NUM_LABELS
from tests.ehr.association_reference import (
    arms,
    cells,
    difference_by_hand,
    drugs_beside,
    drugs_by_hand,
    lift_by_hand,
    subjects_with,
    supported_by_hand,
    table_by_hand,
    totals_by_hand,
)

FOLDS = 3
NAMES = ("Zinc", "aspirin", "Äther", "b", "a, c")
USED = (0, 7, 24)  # diseases of the random cohorts
bits = st.sets(st.sampled_from(USED), min_size=0).map(lambda chosen: sum(1 << k for k in chosen))
some_visits = st.tuples(st.integers(0, 8), bits, bits, st.frozensets(st.sampled_from(NAMES)))
cohorts = st.lists(some_visits, max_size=40).map(
    lambda rows: [(s, s % FOLDS, now, after, drugs) for s, now, after, drugs in rows]
)


def frames(visits, first_key=0, subject=pl.UInt64):
    """The two inputs of `statistics`; the keys of the visits begin at first_key."""
    keys = range(first_key, first_key + len(visits))
    columns = {
        "visit": list(keys),
        **{name: [visit[i] for visit in visits] for i, name in enumerate(("subject", "fold", "current", "next"))},
    }
    schema = {"visit": pl.UInt32, "subject": pl.UInt64, "fold": pl.UInt8, "current": pl.UInt32, "next": pl.UInt32}
    rows = [(key, drug) for key, visit in zip(keys, visits, strict=True) for drug in visit[4]]
    random.Random(len(rows)).shuffle(rows)
    drugs = pl.DataFrame(rows, schema={"visit": pl.UInt32, "drug": pl.String}, orient="row")
    return pl.DataFrame(columns, schema=schema).with_columns(pl.col("subject").cast(subject)), drugs


def made(visits):
    return statistics(*frames(visits))


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


@settings(max_examples=50, deadline=None)
@given(cohorts.filter(bool))
def test_measures_equal_plain_python(visits):
    for row in measures(pooled(made(visits)), 2).iter_rows(named=True):
        k, drug = row["disease"], row["drug"]
        counts = arms(visits, k, drug)
        difference, error = difference_by_hand(list(counts.values()))
        assert row["smallest_cell"] == min(cells(visits, k, drug))
        assert row["subjects_with"] == len(subjects_with(visits, k, drug))
        assert row["subjects_without"] == sum(n0 > 0 for *_, n0 in counts.values())
        assert row["visits_with"] + row["visits_without"] == sum(n1 + n0 for _, n1, _, n0 in counts.values())
        lift = lift_by_hand(visits, k, drug, 2)
        assert row["lift"] == (None if lift is None else pytest.approx(float(lift)))
        assert row["difference"] == (None if difference is None else pytest.approx(difference))
        if error is None:
            assert row["difference_low"] is row["difference_high"] is None
        else:  # the square root turns a variance of 0 ± 1e-16 into 1e-8
            assert (row["difference_high"] - row["difference_low"]) / 2 == pytest.approx(
                1.959964 * error, rel=1e-5, abs=1e-6
            )


def simulated(rng, subjects, diseases=NUM_LABELS, by_subject=0.5):
    """Visits whose outcomes hang together within a subject, and a drug that has nothing to do with them; each disease is a cohort of its own."""
    visits = rng.integers(1, 5, subjects)
    subject = np.repeat(np.arange(subjects), visits)
    current, after = np.zeros(len(subject), np.uint32), np.zeros(len(subject), np.uint32)
    for k in range(diseases):
        chance = rng.beta(0.8, 0.8, subjects)[subject]
        current |= (rng.random(len(subject)) < 0.9).astype(np.uint32) << k
        after |= (rng.random(len(subject)) < chance).astype(np.uint32) << k
    always = rng.random(subjects)[subject] < by_subject  # these get the drug at all of their visits or at none
    given_to = np.where(always, subject % 2 == 0, rng.random(len(subject)) < 0.5)
    columns = {
        "visit": np.arange(len(subject), dtype=np.uint32),
        "subject": subject.astype(np.uint64),
        "fold": np.zeros(len(subject), np.uint8),
    }
    drugs = pl.DataFrame({"visit": np.flatnonzero(given_to).astype(np.uint32), "drug": ["x"] * int(given_to.sum())})
    return pl.DataFrame({**columns, "current": current, "next": after}), drugs


def test_the_interval_agrees_with_a_bootstrap_of_subjects():
    rng = np.random.default_rng(3)
    visits, drugs = simulated(rng, 400, diseases=1)
    row = measures(pooled(statistics(visits, drugs)), 20).row(0, named=True)
    given_to = set(drugs["visit"].to_list())
    plain = [(row[1], 0, row[3], row[4], frozenset(["x"] if row[0] in given_to else [])) for row in visits.iter_rows()]
    counts = np.array(list(arms(plain, 0, "x").values()))
    sums = counts[rng.integers(0, len(counts), (2000, len(counts)))].sum(axis=1)
    spread = (sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]).std()
    assert (row["difference_high"] - row["difference_low"]) / 2 / 1.96 == pytest.approx(spread, rel=0.06)


def test_the_interval_covers_no_difference_95_percent_of_the_time():
    clustered, naive = [], []
    for seed in range(24):  # 25 diseases each: 600 cohorts of 120 subjects
        frame = measures(pooled(statistics(*simulated(np.random.default_rng(seed), 120))), 20)
        clustered += (
            frame.select((pl.col("difference_low") <= 0) & (pl.col("difference_high") >= 0)).to_series().to_list()
        )
        p1, p0, n1, n0 = (
            frame[name] for name in ("absent_rate_with", "absent_rate_without", "visits_with", "visits_without")
        )
        naive += ((p1 - p0).abs() <= 1.96 * (p1 * (1 - p1) / n1 + p0 * (1 - p0) / n0).sqrt()).to_list()
    assert len(clustered) == 600
    assert 0.925 < np.mean(clustered) < 0.975  # standard error 0.009
    assert np.mean(naive) < 0.92  # visits as if independent: too narrow


def crowd(seed, subjects=70):
    """A cohort whose cells lie around SMALLEST_CELL."""
    rng = random.Random(seed)
    drawn = [(name, rng.random()) for name in NAMES]
    visits = []
    for subject in range(subjects):
        for _ in range(rng.randint(1, 3)):
            now = sum(1 << k for k in USED if rng.random() < 0.7)
            after = sum(1 << k for k in USED if rng.random() < 0.6)
            visits.append(
                (
                    subject,
                    subject % FOLDS,
                    now,
                    after,
                    frozenset(name for name, chance in drawn if rng.random() < chance),
                )
            )
    return visits


@pytest.mark.parametrize("seed", range(12))
def test_no_row_reveals_a_cell_under_ten_patients(seed):
    visits = crowd(seed)
    chosen = {DISEASES[0]: ["b"], DISEASES[1]: ["never seen"]}
    table = published(made(visits), min_support=1, chosen=chosen)
    rows = {(row["disease"], row["drug"]): row for row in table.iter_rows(named=True)}
    for (disease, drug), row in rows.items():
        patients = cells(visits, DISEASES.index(disease), drug)
        assert row["suppressed"] == (min(patients) < SMALLEST_CELL)
        assert all((row[name] is None) == row["suppressed"] for name in (*COUNTS, *RATES))
        assert row["in_clause"] == (drug in chosen.get(disease, []))
    expected = {
        (DISEASES[k], drug)
        for k in USED
        for drug in drugs_beside(visits, k)
        if len(subjects_with(visits, k, drug)) >= SMALLEST_CELL
    }
    assert set(rows) == expected | {(disease, drug) for disease, drugs in chosen.items() for drug in drugs}
    assert list(rows) == sorted(rows, key=lambda key: (DISEASES.index(key[0]), key[1]))


def test_crowds_have_both_kinds_of_row():
    rows = pl.concat([published(made(crowd(seed)), min_support=1, chosen={}) for seed in range(12)])
    assert rows["suppressed"].sum() > 20 and (~rows["suppressed"]).sum() > 20
    assert dict(rows.schema) == SCHEMA


def test_the_published_table_is_of_all_folds_and_writes_as_csv():
    visits = crowd(1)
    table = published(made(visits), min_support=20, chosen={})
    moved = [(subject, 0, *rest) for subject, _, *rest in visits]
    assert published(made(moved), min_support=20, chosen={}).equals(table)
    assert pl.read_csv(table.write_csv().encode()).height == table.height > 0
