"""The split of every subject of a cohort: by hash, or by the values of a column.
Decided once all subjects are known, since edges may have to move so that no split is without a pair."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ckd.ehr.meds_metadata import SPLITS_FILE
from ckd.errors import DataError
from ckd.ingest_config import IngestConfig
from ckd.visits.splits import edges
from ckd.visits.visit import SPLITS, Split


@dataclass(frozen=True)
class SubjectSplits:
    """The rule. `ends`: where each split that the hash fills ends, between 0 and 1. `moved`: labelled subjects whose
    split is another one because edges moved. `unnamed`: subjects without a value of ingest.split_column."""

    config: IngestConfig
    ends: Mapping[Split, float]
    moved: int = 0
    unnamed: int = 0

    def of(self, subjects: pl.DataFrame) -> pl.Series:
        """The split of each subject: by the column where one of its values is named (held_out first), else by hash."""
        return subjects.select(split=pl.coalesce(by_column(self.config), by_hash(self.ends)))["split"]


def by_column(config: IngestConfig) -> pl.Expr:
    """The split that a subject's values (`cuts`) of ingest.split_column name, null where none does."""

    def named(values: tuple[str, ...]) -> pl.Expr:
        return pl.col("cuts").list.eval(pl.element().is_in(list(values))).list.any().fill_null(False)

    held_out = pl.when(named(config.held_out_values)).then(pl.lit("held_out"))
    return held_out.when(named(config.tuning_values)).then(pl.lit("tuning"))


def by_hash(ends: Mapping[Split, float]) -> pl.Expr:
    """The first split whose end is above the subject's point."""
    return pl.coalesce(pl.when(pl.col("point") < end).then(pl.lit(split)) for split, end in ends.items())


def decide(subjects: Iterable[pl.DataFrame], config: IngestConfig) -> SubjectSplits:
    """Choose the edges from the subjects of all partitions: 8 bytes per subject with a labelled visit.

    Raises DataError when no subject has a labelled visit, when none has one of the values that ingest.split_column
    should find, or all have.
    """
    placed: dict[str, int] = {}
    points, unnamed = [], 0
    for frame in subjects:
        unnamed += int((frame["cuts"].list.len() == 0).sum())
        labeled = frame.filter(pl.col("labeled")).select("point", split=by_column(config))
        points.append(labeled.filter(pl.col("split").is_null())["point"].to_numpy())
        for split, count in labeled.drop_nulls("split").group_by("split").len().iter_rows():
            placed[split] = placed.get(split, 0) + count
    for split, values in (("held_out", config.held_out_values), ("tuning", config.tuning_values)):
        if values and not placed.get(split) and config.split_column != SPLITS_FILE:
            these = f"one of these {len(values)} values in '{config.split_column}'"
            expected = "expected values as they stand in that column"
            raise DataError(f"ingest.{split}_values: no patient with a labelled visit has {these}; {expected}")
    shares = _shares(config)
    labeled_points = np.concatenate([*points, np.empty(0)])
    if not len(labeled_points):
        every = (
            "every patient with one has a value of ingest.held_out_values or ingest.tuning_values"
            if placed
            else "no patient has one"
        )
        expected = "expected more patients, or other values (docs/ingest.md: what is left out)"
        raise DataError(f"no labelled visit for the train split: {every}; {expected}")
    ends, plain = edges(labeled_points.tolist(), shares), edges([], shares)
    moved = int((_rank(labeled_points, ends) != _rank(labeled_points, plain)).sum())
    return SubjectSplits(config, ends, moved, unnamed if config.split_column else 0)


def _shares(config: IngestConfig) -> dict[Split, float]:
    """The shares that the hash fills: without a split that the column names values for."""
    shares: dict[Split, float] = {"train": 0.0, "tuning": config.tuning_share, "held_out": config.held_out_share}
    if config.held_out_values:
        del shares["held_out"]
    if config.tuning_values:
        del shares["tuning"]
    shares = {split: share for split, share in shares.items() if share or split == "train"}
    shares["train"] = 1 - sum(shares.values())
    return {split: shares[split] for split in SPLITS if split in shares}


def _rank(points: np.ndarray, ends: Mapping[Split, float]) -> np.ndarray:
    return np.searchsorted(np.array(list(ends.values())), points, side="right")
