"""The association table for people: against plain Python, its interval by simulation, its small cells."""

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from ckd.ehr.association import pooled, statistics
from ckd.ehr.association_table import COUNTS, RATES, SCHEMA, SMALLEST_CELL, measures, published
from ckd.visits.labels import DISEASES, NUM_LABELS
from tests.ehr.association_reference import (
    FOLDS,
    NAMES,
    USED,
    arms,
    cells,
    cohorts,
    difference_by_hand,
    drugs_beside,
    lift_by_hand,
    made,
    subjects_with,
)


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
    """Visits whose outcomes hang together within a subject, and a drug that has nothing to do with them.

    Each disease is a cohort of its own."""
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
    """A cohort whose cells have about SMALLEST_CELL patients."""
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
