"""The association table for people: rates with and without a drug, their difference and its interval.
Small cells are withheld."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import polars as pl

from ckd.ehr.association import Stats, pooled, smoothed_lift
from ckd.visits.labels import DISEASES

SMALLEST_CELL = 10  # patients
COUNTS = ("subjects_with", "subjects_without", "visits_with", "visits_without")
RATES = ("absent_rate_with", "absent_rate_without", "difference", "difference_low", "difference_high", "lift")
SCHEMA: dict[str, type[pl.DataType]] = {
    "disease": pl.String,
    "drug": pl.String,
    "in_clause": pl.Boolean,
    "suppressed": pl.Boolean,
    **dict.fromkeys(COUNTS, pl.Int64),
    **dict.fromkeys(RATES, pl.Float64),
}
_Z = NormalDist().inv_cdf(0.975)


def published(stats: Stats, *, min_support: int, chosen: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """One row (SCHEMA) per disease present now and drug, sorted by label, then name.

    The drugs are those that at least `min_support` subjects (and never fewer than SMALLEST_CELL) got with the disease,
    and those that `chosen` (the all-train table) names. Rates are of visits, "absent" is the disease at the next visit,
    the difference is with minus without, its interval the 95 % one of `measures`. A row is suppressed, all its figures
    null, unless each of its four cells (with or without the drug, absent or present next) has SMALLEST_CELL patients;
    null is also whatever is undefined. No row has a disease's totals other than as the sum of four such cells, so that
    none of a suppressed row can be had by subtraction. For the same reason the folds' tables are not published: each is
    the all-train table less one fold, and the differences would be that fold's cells.
    """
    named = [(DISEASES.index(disease), drug, True) for disease, drugs in chosen.items() for drug in drugs]
    schema = {"disease": pl.UInt8, "drug": pl.String, "in_clause": pl.Boolean}
    clause = pl.DataFrame(named, schema=schema, orient="row")
    # A placebo name may lack support with its disease, or not occur with it: it still gets its row, a suppressed one.
    rows = measures(pooled(stats), min_support).join(clause, on=["disease", "drug"], how="full", coalesce=True)
    rows = rows.with_columns(
        pl.col("in_clause").fill_null(False), suppressed=(pl.col("smallest_cell") < SMALLEST_CELL).fill_null(True)
    )
    rows = rows.filter((pl.col("subjects_with") >= max(min_support, SMALLEST_CELL)) | pl.col("in_clause"))
    withheld = [pl.when(~pl.col("suppressed")).then(pl.col(name)).alias(name) for name in (*COUNTS, *RATES)]
    label = pl.col("disease").replace_strict(list(range(len(DISEASES))), list(DISEASES), return_dtype=pl.String)
    rows = rows.sort("disease", "drug").with_columns(*withheld, label.alias("disease"))
    return rows.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def measures(sums: pl.DataFrame, min_support: int) -> pl.DataFrame:
    """disease, drug, COUNTS, RATES, smallest_cell (patients) of `pooled`, small cells included. Not for publication.

    A rate p = Σ a_s / Σ n_s over subjects s is a ratio estimator (Cochran, Sampling Techniques, 3rd ed., ch. 6 and 9A):
    linearised, its variance with whole subjects as clusters is Σ (a_s − p·n_s)² / (Σ n_s)². A subject may have visits
    in both arms, so the variance of the difference is that of the difference of the linearised residuals: Var1 + Var0 −
    2·Cov, times S/(S − 1) for S subjects. Interval: normal, 95 %, not clipped to ±1.
    """
    n1, a1, n0, a0 = pl.col("n1"), pl.col("a1"), pl.col("n") - pl.col("n1"), pl.col("a") - pl.col("a1")
    with_drug = [pl.col(f"subjects1_{after}") for after in ("absent", "present")]
    without = [pl.col(f"subjects_{after}") - pl.col(f"whole_{after}") for after in ("absent", "present")]
    figures = sums.with_columns(
        smallest_cell=pl.min_horizontal(*with_drug, *without),
        subjects_with=pl.col("subjects1"),
        subjects_without=pl.col("subjects") - pl.col("whole"),
        visits_with=n1,
        visits_without=n0,
        absent_rate_with=a1 / n1,
        absent_rate_without=pl.when(n0 > 0).then(a0 / n0),
        lift=smoothed_lift(min_support),
    )
    difference = pl.col("absent_rate_with") - pl.col("absent_rate_without")
    half = _Z * pl.when(pl.col("subjects") > 1).then(_variance()).sqrt()
    bounds = {"difference": difference, "difference_low": difference - half, "difference_high": difference + half}
    return figures.with_columns(**bounds).select("disease", "drug", *COUNTS, *RATES, "smallest_cell")


def _variance() -> pl.Expr:
    """Σ (e1_s/N1 − e0_s/N0)² · S/(S − 1), e = a − p·n per arm, N = Σ n, expanded into sums; null without both arms."""
    c = pl.col
    p1, p0, all1, all0 = c("absent_rate_with"), c("absent_rate_without"), c("n1"), c("n") - c("n1")
    # The arm without the drug is the rest, a0 = a − a1 and n0 = n − n1, subject by subject.
    a0a0 = c("aa") - 2 * c("a1a") + c("a1a1")
    a0n0 = c("an") - c("n1a") - c("a1n") + c("a1n1")
    n0n0 = c("nn") - 2 * c("n1n") + c("n1n1")
    e1e1 = c("a1a1") - 2 * p1 * c("a1n1") + p1 * p1 * c("n1n1")
    e0e0 = a0a0 - 2 * p0 * a0n0 + p0 * p0 * n0n0
    a1a0, a1n0, n1a0, n1n0 = c("a1a") - c("a1a1"), c("a1n") - c("a1n1"), c("n1a") - c("a1n1"), c("n1n") - c("n1n1")
    e1e0 = a1a0 - p0 * a1n0 - p1 * n1a0 + p1 * p0 * n1n0
    variance = e1e1 / all1 / all1 + e0e0 / all0 / all0 - 2 * e1e0 / all1 / all0
    # Cancellation may leave a variance of 0 at −1e-18.
    return variance.clip(lower_bound=0.0) * c("subjects") / (c("subjects") - 1)
