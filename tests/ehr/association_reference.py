"""The treatment association in plain Python, one visit and one subject at a time, and random cohorts for it.

A visit is (subject, fold, current bits, next bits, set of drugs)."""

import random
from collections import Counter, defaultdict
from fractions import Fraction
from math import sqrt

import polars as pl
from hypothesis import strategies as st

from ckd.ehr.association import statistics
from ckd.visits.labels import DISEASES

FOLDS = 3
NAMES = ("Zinc", "aspirin", "Äther", "b", "a, c")
USED = (0, 7, 24)  # diseases of the random cohorts
bits = st.sets(st.sampled_from(USED), min_size=0).map(lambda chosen: sum(1 << k for k in chosen))
some_visits = st.tuples(st.integers(0, 8), bits, bits, st.frozensets(st.sampled_from(NAMES)))
cohorts = st.lists(some_visits, max_size=40).map(
    lambda rows: [(s, s % FOLDS, now, after, drugs) for s, now, after, drugs in rows]
)


def frames(visits, first_key=0, subject=pl.UInt64):
    """The two inputs of `statistics`; the visits' keys start at first_key."""
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


def present(visits, disease):
    """(subject, absent next, drugs) of the visits that have the disease now."""
    for subject, _, current, after, drugs in visits:
        if current >> disease & 1:
            yield subject, not after >> disease & 1, drugs


def drugs_beside(visits, disease):
    return sorted({drug for _, _, drugs in present(visits, disease) for drug in drugs})


def subjects_with(visits, disease, drug):
    return {subject for subject, _, drugs in present(visits, disease) if drug in drugs}


def arms(visits, disease, drug):
    """{subject: [a1, n1, a0, n0]}: visits absent next and all visits, with the drug and without."""
    counts = defaultdict(lambda: [0, 0, 0, 0])
    for subject, absent, drugs in present(visits, disease):
        arm = 0 if drug in drugs else 2
        counts[subject][arm] += absent
        counts[subject][arm + 1] += 1
    return counts


def cells(visits, disease, drug):
    """Patients with a visit: with the drug and absent next, with and present, without and absent, without, present."""
    found = [set(), set(), set(), set()]
    for subject, absent, drugs in present(visits, disease):
        found[(0 if drug in drugs else 2) + (0 if absent else 1)].add(subject)
    return [len(subjects) for subjects in found]


def totals_by_hand(visits):
    sums = {}
    for fold in {visit[1] for visit in visits}:
        for k in range(len(DISEASES)):
            pairs = [
                (a1 + a0, n1 + n0) for a1, n1, a0, n0 in arms([v for v in visits if v[1] == fold], k, None).values()
            ]
            if pairs:
                sums[fold, k] = {
                    "n": sum(n for _, n in pairs),
                    "a": sum(a for a, _ in pairs),
                    "subjects": len(pairs),
                    "subjects_absent": sum(a > 0 for a, _ in pairs),
                    "subjects_present": sum(a < n for a, n in pairs),
                    "aa": sum(a * a for a, _ in pairs),
                    "an": sum(a * n for a, n in pairs),
                    "nn": sum(n * n for _, n in pairs),
                }
    return sums


def drugs_by_hand(visits):
    sums = {}
    for fold in {visit[1] for visit in visits}:
        mine = [visit for visit in visits if visit[1] == fold]
        for k in range(len(DISEASES)):
            for drug in drugs_beside(mine, k):
                sums[fold, k, drug] = one_drug(list(arms(mine, k, drug).values()))
    return sums


def one_drug(counts):
    sums = Counter(
        dict.fromkeys(("whole", "whole_absent", "whole_present", "subjects1_absent", "subjects1_present"), 0)
    )
    for a1, n1, a0, n0 in counts:
        if n1:
            a, n = a1 + a0, n1 + n0
            sums.update(
                {"n1": n1, "a1": a1, "subjects1": 1, "subjects1_absent": int(a1 > 0), "subjects1_present": int(n1 > a1)}
            )
            sums.update(
                {
                    "whole": int(n0 == 0),
                    "whole_absent": int(a0 == 0 and a > 0),
                    "whole_present": int(n0 == a0 and n > a),
                }
            )
            sums.update(
                {
                    "a1a1": a1 * a1,
                    "a1n1": a1 * n1,
                    "n1n1": n1 * n1,
                    "a1a": a1 * a,
                    "a1n": a1 * n,
                    "n1a": n1 * a,
                    "n1n": n1 * n,
                }
            )
    return dict(sums)


def lift_by_hand(visits, disease, drug, m):
    counts = list(arms(visits, disease, drug).values())
    a1, n1, a0, n0 = (sum(column) for column in zip(*counts, strict=True))
    if n0 == 0 or a1 + a0 == 0:
        return None
    rate0 = (a0 + m * Fraction(a1 + a0, n1 + n0)) / (n0 + m)
    return (a1 + m * rate0) / (n1 + m) / rate0


def score(visits, disease, drug, method, m):
    if len(subjects_with(visits, disease, drug)) < m:
        return None
    if method == "count":
        return sum(a1 for a1, *_ in arms(visits, disease, drug).values()) or None
    lift = lift_by_hand(visits, disease, drug, m)
    return lift if lift is not None and lift > 1 else None


def table_by_hand(visits, method, m, top):
    table = {}
    for k, disease in enumerate(DISEASES):
        scores = {drug: score(visits, k, drug, method, m) for drug in drugs_beside(visits, k)}
        kept = [drug for drug, value in scores.items() if value is not None]
        if kept:
            table[disease] = sorted(kept, key=lambda drug: (-scores[drug], drug))[:top]
    return table


def supported_by_hand(visits, m):
    return {
        drug
        for k in range(len(DISEASES))
        for drug in drugs_beside(visits, k)
        if len(subjects_with(visits, k, drug)) >= m
    }


def difference_by_hand(counts):
    """(difference of the rates, its clustered standard error) of [a1, n1, a0, n0] per subject; None where undefined."""
    a1, n1, a0, n0 = (sum(column) for column in zip(*counts, strict=True))
    if not n0:
        return None, None
    p1, p0 = a1 / n1, a0 / n0
    squares = [((x1 - p1 * m1) / n1 - (x0 - p0 * m0) / n0) ** 2 for x1, m1, x0, m0 in counts]
    return p1 - p0, sqrt(sum(squares) * len(counts) / (len(counts) - 1)) if len(counts) > 1 else None
