"""Which drugs go with a disease's absence at the next visit: sums over training visits, and drug names made from them.
An association, never an effect. The sums add up over partitions, so that no step needs all visits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ckd.ehr.frames import left_join
from ckd.visits.labels import DISEASES, NUM_LABELS
from ckd.visits.visit import hash64

Method = Literal["lift", "count", "placebo", "none"]
Table = dict[str, list[str]]  # disease -> drugs, best first; diseases in label order, those without a drug left out
FRAMES = ("totals", "drugs")  # of Stats
Array = npt.NDArray[Any]

# Per subject s and disease: n = its visits with the disease present now, a = those of them with it absent next; with
# the drug: n1, a1. A column is the sum over s of what its name says (aa: of a·a); subjects* count the subjects with
# such a visit. `whole*` are subjects whose every such visit (all; all absent-next; all present-next ones) had the drug:
# the subjects of a cell without the drug are subjects* minus whole*.
TOTAL_SUMS = ("n", "a", "subjects", "subjects_absent", "subjects_present", "aa", "an", "nn")
_SUBJECTS_WITH = ("subjects1", "subjects1_absent", "subjects1_present", "whole", "whole_absent", "whole_present")
DRUG_SUMS = ("n1", "a1", *_SUBJECTS_WITH, "a1a1", "a1n1", "n1n1", "a1a", "a1n", "n1a", "n1n")
_TOTAL_KEYS, _DRUG_KEYS = ["fold", "disease"], ["fold", "disease", "drug"]
_TOTALS = pl.Schema({**dict.fromkeys(_TOTAL_KEYS, pl.UInt8), **dict.fromkeys(TOTAL_SUMS, pl.Int64)})
_DRUGS = pl.Schema({"fold": pl.UInt8, "disease": pl.UInt8, "drug": pl.String, **dict.fromkeys(DRUG_SUMS, pl.Int64)})


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums that add up over partitions of whole subjects. They stay in the work folder: a cell may be a single patient.

    totals: fold UInt8, disease UInt8, TOTAL_SUMS Int64. drugs: fold, disease, drug Str, DRUG_SUMS Int64. Both sorted by
    their keys.
    """

    totals: pl.DataFrame
    drugs: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Tables:
    """`by_fold[f]`, for the visits of fold f's subjects, is made without them; `all_train` is for all others."""

    by_fold: tuple[Table, ...]
    all_train: Table


def statistics(visits: pl.DataFrame, drugs: pl.DataFrame) -> Stats:
    """The sums of one partition.

    visits: one row per training visit with a next visit: visit UInt32 (its key), subject UInt64 or Str, fold UInt8,
    current UInt32 and next UInt32 (bit k = DISEASES[k] present). All visits of a subject must be in the same partition
    and fold. drugs: visit UInt32, drug Str or Categorical, no null, distinct per visit; those of visits that are not in
    `visits` count for nothing.
    """
    visits = visits.sort("fold", "subject").with_row_index("row")
    if visits.is_empty():
        return merge([])
    subject_of = visits.select(pl.struct("fold", "subject").rle_id()).to_series().to_numpy()
    first = _starts(subject_of)
    fold_of = visits["fold"].to_numpy()[first]
    current, after = visits["current"].to_numpy(), visits["next"].to_numpy()
    bit = np.arange(NUM_LABELS, dtype=np.uint32)
    n = np.add.reduceat((current[:, None] >> bit) & 1, first, axis=0, dtype=np.int64)
    a = np.add.reduceat(((current & ~after)[:, None] >> bit) & 1, first, axis=0, dtype=np.int64)
    names, key = _given(visits, drugs)
    rows = (key & 0xFFFFFFFF).astype(np.intp)
    present, absent = current[rows], (current & ~after)[rows]
    subject, code = subject_of[rows].astype(np.intp), (key >> 32).astype(np.intp)
    parts: list[dict[str, Array]] = []
    for k in range(NUM_LABELS):  # the rows are sorted by drug, fold, subject, and stay so in each disease's selection
        mine = np.flatnonzero((present >> k) & 1)
        if len(mine):
            subjects = n[:, k], a[:, k], fold_of
            parts.append(_one_disease(k, code[mine], subject[mine], (absent[mine] >> k) & 1, subjects))
    return Stats(_totals(n, a, fold_of), _drug_frame(parts, names))


def _given(visits: pl.DataFrame, drugs: pl.DataFrame) -> tuple[pl.Series, Array]:
    """The distinct drug names in order, and per drug given its number << 32 | row of its visit, sorted."""
    given = drugs.join(visits.select("visit", "row"), on="visit", how="inner")
    names = given["drug"].unique().cast(pl.String).sort()
    code = given["drug"].cast(pl.String).cast(pl.Enum(names)).to_physical().to_numpy().astype(np.uint64)
    return names, np.sort(code << np.uint64(32) | given["row"].to_numpy())


def _starts(*keys: Array) -> Array:
    """Where each run of equal keys starts, in arrays that are grouped by them."""
    change = np.zeros(len(keys[0]), dtype=bool)
    change[:1] = True
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(change)


def _totals(n: Array, a: Array, fold_of: Array) -> pl.DataFrame:
    """TOTAL_SUMS per fold and disease from each subject's n and a [subjects, 25]; subjects are grouped by fold."""
    first = _starts(fold_of)
    sums = (n, a, n > 0, a > 0, n > a, a * a, a * n, n * n)
    columns = [np.add.reduceat(values, first, axis=0, dtype=np.int64).ravel() for values in sums]
    diseases = np.tile(np.arange(NUM_LABELS, dtype=np.uint8), len(first))
    keys = {"fold": np.repeat(fold_of[first], NUM_LABELS), "disease": diseases}
    totals = pl.DataFrame(keys | dict(zip(TOTAL_SUMS, columns, strict=True)), schema=_TOTALS)
    return totals.filter(pl.col("n") > 0)


def _one_disease(
    k: int, code: Array, subject: Array, absent: Array, subjects: tuple[Array, Array, Array]
) -> dict[str, Array]:
    """DRUG_SUMS per drug and fold of disease k.

    `code`, `subject`, `absent`: one entry per visit with disease and drug, grouped by drug, then fold, then subject.
    `subjects`: each subject's n, a and fold.
    """
    pair = _starts(code, subject)
    n1 = np.diff(pair, append=len(code))
    a1 = np.add.reduceat(absent, pair, dtype=np.int64)
    code, subject = code[pair], subject[pair]
    n, a, fold = (values[subject] for values in subjects)
    first = _starts(code, fold)
    with_drug = (a1 > 0, n1 > a1)
    whole = (n1 == n, (a1 == a) & (a > 0), (n1 - a1 == n - a) & (n > a))
    sums = (n1, a1, np.ones_like(n1), *with_drug, *whole, a1 * a1, a1 * n1, n1 * n1, a1 * a, a1 * n, n1 * a, n1 * n)
    keys = {"fold": fold[first], "disease": np.full(len(first), k, dtype=np.uint8), "drug": code[first]}
    columns = [np.add.reduceat(values, first, dtype=np.int64) for values in sums]
    return keys | dict(zip(DRUG_SUMS, columns, strict=True))


def _drug_frame(parts: list[dict[str, Array]], names: pl.Series) -> pl.DataFrame:
    if not parts:
        return pl.DataFrame(schema=_DRUGS)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in _DRUGS}
    # Each part is sorted by drug, whose numbers are in the order of the names.
    frame = pl.DataFrame(columns).sort("fold", maintain_order=True)
    return frame.with_columns(names.gather(frame["drug"]).alias("drug")).cast(_DRUGS)


def merge(parts: Iterable[Stats]) -> Stats:
    """The sums of all partitions together, in whatever order they come; of none, empty frames.

    Adds up when four times as many rows wait as are merged, so that memory grows with the distinct drugs, not with the
    parts.
    """
    merged = Stats(pl.DataFrame(schema=_TOTALS), pl.DataFrame(schema=_DRUGS))
    waiting: list[Stats] = []
    for part in parts:
        waiting.append(part)
        if sum(each.drugs.height for each in waiting) > 4 * merged.drugs.height:
            merged, waiting = _sum([merged, *waiting]), []
    return _sum([merged, *waiting])


def _sum(parts: Sequence[Stats]) -> Stats:
    totals, drugs = pl.concat([part.totals for part in parts]), pl.concat([part.drugs for part in parts])
    # Grouping by numbers takes a third of the time of grouping by names.
    numbered = pl.col("drug").cast(pl.Enum(drugs["drug"].unique().sort()))
    added = _added(drugs.with_columns(numbered), _DRUG_KEYS)
    return Stats(_added(totals, _TOTAL_KEYS), added.with_columns(pl.col("drug").cast(pl.String)))


def _added(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    return frame.group_by(keys).sum().sort(keys)


def pooled(stats: Stats, leave_out: int | None = None) -> pl.DataFrame:
    """DRUG_SUMS and the disease's TOTAL_SUMS per disease UInt8 and drug Str, sorted, over all folds but `leave_out`."""
    kept = pl.lit(True) if leave_out is None else pl.col("fold") != leave_out
    totals = _added(stats.totals.filter(kept).drop("fold"), ["disease"])
    drugs = _added(stats.drugs.filter(kept).drop("fold"), ["disease", "drug"])
    return left_join(drugs, totals, "disease")


def smoothed_lift(min_support: int) -> pl.Expr:
    """How many times as often the disease is absent next with the drug as without, over columns of `pooled`.

    Where visits are few it is shrunk to 1. With m = min_support: r1 = (a1 + m·r0)/(n1 + m) is the mean of the Beta
    posterior whose prior is worth m visits at the rate r0 without the drug (empirical Bayes), so lift = r1/r0 goes to 1
    as n1 goes to 0. A drug that nearly everyone gets leaves few visits without it, whose raw rate a0/n0 may be 0 or
    anything; so r0 = (a0 + m·a/n)/(n0 + m) leans on the rate a/n of all visits with the disease in the same way, and
    is a0/n0 for large n0. r0 is 0 only if the disease is never absent next; then, and without any visit in the arm
    without the drug, lift is null.
    """
    m = float(min_support)
    n0, a0 = pl.col("n") - pl.col("n1"), pl.col("a") - pl.col("a1")
    rate0 = (a0 + m * pl.col("a") / pl.col("n")) / (n0 + m)
    lift = (pl.col("a1") + m * rate0) / (pl.col("n1") + m) / rate0
    return pl.when((n0 > 0) & (pl.col("a") > 0)).then(lift)


def tables(stats: Stats, *, method: Method, min_support: int, top: int, folds: int, seed: int) -> Tables:
    """Per disease up to `top` drugs that at least `min_support` subjects got with it present; per fold and for all.

    count: most visits with the drug and the disease absent next. lift: highest `smoothed_lift`, if above 1. placebo: as
    many drugs as lift names for the same diseases, drawn at random from those that have the support with any disease.
    none: no name. Ties go by name.
    """
    *by_fold, all_train = (_table(stats, fold, method, min_support, top, seed) for fold in (*range(folds), None))
    return Tables(tuple(by_fold), all_train)


def _table(stats: Stats, fold: int | None, method: Method, min_support: int, top: int, seed: int) -> Table:
    if method == "none":
        return {}
    supported = pooled(stats, fold).filter(pl.col("subjects1") >= min_support)
    if method == "count":
        return _best(supported.with_columns(score=pl.col("a1")).filter(pl.col("score") > 0), top)
    # Rounded, so that equal associations tie, and none at all is exactly 1, however the divisions came out.
    table = _best(supported.with_columns(score=smoothed_lift(min_support).round(9)).filter(pl.col("score") > 1), top)
    if method == "lift":
        return table
    pool, drawn_for = supported["drug"].unique().to_list(), "all" if fold is None else fold
    return {disease: _draw(pool, len(names), (seed, drawn_for, disease)) for disease, names in table.items()}


def _best(scored: pl.DataFrame, top: int) -> Table:
    ranked = scored.sort("disease", "score", "drug", descending=[False, True, False])
    best = ranked.group_by("disease", maintain_order=True).agg(pl.col("drug").head(top))
    return {DISEASES[disease]: names for disease, names in best.iter_rows() if names}


def _draw(pool: list[str], count: int, key: tuple[object, ...]) -> list[str]:
    """`count` of the pool by rank of a hash: the same whatever the pool's order."""
    return sorted(pool, key=lambda drug: (hash64(*key, drug), drug))[:count]
