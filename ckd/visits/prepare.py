"""Stage `visits`: input files -> splits -> the stored cohort, with everything that was counted on the way. Says aloud what a reader of the
results must know; refuses what would make them worthless, before any model loads."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from ckd.config import Config
from ckd.errors import DataError
from ckd.store.artifacts import Fields, Stage
from ckd.store.files import join, write_file
from ckd.visits.cohort import STAGE, Cohort, cohort_artifact, commit
from ckd.visits.inputs import Input
from ckd.visits.intake import Counts, Intake
from ckd.visits.splits import Splitter
from ckd.visits.visit import Split, Visit

VISITS_VERSION = 2  # raise it when the same input gives other rows, ids or splits
FEW_TUNING = 50
MANY_GROUPS = 100  # so many are told apart; beyond it the rules and messages below need no exact number
Say = Callable[[str], None]


def prepare(config: Config, inputs: list[Input], fields: Fields, say: Say) -> Cohort:
    """The run's visits: opened when they are there, else made. `fields` is their fingerprint.

    Raises DataError for input that must not be used as it is (missing, too many bad rows, contradicting splits, no labelled train or held_out
    visit), ArtifactError when stored visits come from other input.
    """
    if not inputs:
        raise DataError(
            "data.train is empty; expected the path of the training visits, such as data.train=data/name_train.json"
        )
    cohort = _stored(config, fields)
    if cohort is None:
        cohort = _Preparation(config, inputs, fields).run()
    for line in _spoken(cohort):
        say(f"visits: {line}")
    counts = _counts(cohort.facts)
    counts.require_at_most(config.data.max_bad_rows, quarantine_file(config))
    return cohort


def quarantine_file(config: Config) -> str:
    """Where the rows that cannot be used are listed: JSONL of location (file:line) and reason."""
    return join(cohort_artifact(config.run.artifacts_root, {}).folder, "quarantine.jsonl")


def halves_tuning(config: Config) -> bool:
    """Whether data.tuning gives the held_out visits too."""
    return bool(config.data.tuning) and not config.data.held_out


def _stored(config: Config, fields: Fields) -> Cohort | None:
    root = config.run.artifacts_root
    if not cohort_artifact(root, fields).is_done():
        return None
    cohort = Cohort.open(root)
    there = set(Stage(root, STAGE, {}).indices())
    return cohort if all(shard.index in there for shard in cohort.shards) else None


@dataclass
class _Placed:
    """Visits per split, as far as the rules below need them. Memory does not grow with the cohort."""

    counts: Counter[tuple[Split, bool]] = field(default_factory=Counter)  # by (split, labelled)
    train_groups: set[int] = field(default_factory=set)  # of labelled visits: the first two
    seeded_groups: set[int] = field(
        default_factory=set
    )  # of labelled visits that the seed placed: the first MANY_GROUPS
    first_tuning: tuple[bool, ...] | None = None
    tuning_differs: bool = False

    def add(self, split: Split, visit: Visit, *, seeded: bool) -> None:
        labels = visit.labels
        self.counts[split, labels is not None] += 1
        if split == "train" and labels is not None and len(self.train_groups) < 2:
            self.train_groups.add(visit.group)
        if seeded and labels is not None and len(self.seeded_groups) < MANY_GROUPS:
            self.seeded_groups.add(visit.group)
        if split == "tuning" and labels is not None:
            self.first_tuning = self.first_tuning or labels
            # No label has both classes exactly when all tuning visits carry the same labels.
            self.tuning_differs = self.tuning_differs or labels != self.first_tuning

    @property
    def tuning(self) -> str:
        if not self.counts["tuning", True]:
            return "empty"
        return "ok" if self.tuning_differs else "one_class"


class _Preparation:
    """One pass over the inputs. `facts` is complete when the last visit has been handed on."""

    def __init__(self, config: Config, inputs: list[Input], fields: Fields) -> None:
        self.config, self.inputs, self.fields = config, inputs, fields
        self.splitter = Splitter(config.data.split, config.seed, halve_tuning=halves_tuning(config))
        self.placed = _Placed()
        self.facts: dict[str, Any] = {}

    def run(self) -> Cohort:
        root, rows = self.config.run.artifacts_root, self.config.data.shard_rows
        with tempfile.TemporaryFile() as quarantine:
            cohort = commit(root, self._visits(quarantine), fields=self.fields, shard_rows=rows, facts=self.facts)
        if sum(shard.rows for shard in cohort.shards) != self.facts["kept"]:
            raise RuntimeError(
                f"{self.facts['kept']} visits kept, but the shards hold {sum(s.rows for s in cohort.shards)}"
            )
        return cohort

    def _visits(self, quarantine: BinaryIO) -> Iterator[Visit]:
        intake, allowed = Intake(self.inputs, quarantine), self.config.data.max_bad_rows
        for visit, location in intake:
            split = self.splitter.place(visit, location)
            self.placed.add(split, visit, seeded=self._seeded(visit, split))
            if intake.counts.quarantined <= allowed:  # beyond it the run stops: the rest is counted, not stored
                yield visit if visit.split == split else replace(visit, split=split)
        self._finish(intake.counts, quarantine)

    def _seeded(self, visit: Visit, split: Split) -> bool:
        if self.config.data.split == "public":
            return True
        return halves_tuning(self.config) and visit.source == "tuning" and visit.split is None and split != "train"

    def _finish(self, counts: Counts, quarantine: BinaryIO) -> None:
        if counts.read != counts.kept + counts.quarantined:
            raise RuntimeError(f"read {counts.read} is not kept {counts.kept} + quarantined {counts.quarantined}")
        quarantine.seek(0)
        write_file(quarantine_file(self.config), lambda stream: shutil.copyfileobj(quarantine, stream))
        counts.require_at_most(self.config.data.max_bad_rows, quarantine_file(self.config))
        self.splitter.check()
        _require_both(self.placed, self.splitter.moved, self.config)
        self.facts.update(_facts(counts, self.placed, self.splitter, self.config))


def _require_both(placed: _Placed, moved: int, config: Config) -> None:
    no_held_out = not placed.counts["held_out", True]
    if placed.seeded_groups and (no_held_out or (config.data.split == "public" and len(placed.train_groups) < 2)):
        raise DataError(_left_by_seed(placed, config))
    if not placed.counts["train", True]:
        raise DataError(
            "no labelled train visit; expected rows of data.train with 'output' (Parquet: labels) that their own split or the file puts "
            "into train: check data.train and the split column"
        )
    if len(placed.train_groups) < 2:
        raise DataError(
            "all labelled train visits have one subject (without subject_id: one input); expected at least 2, since the head is cross-fitted "
            "by subject: give visits of more patients in data.train, or check subject_id"
        )
    if no_held_out:
        why = f" ({moved:,} visits were moved to earlier splits, where their subject already was)" if moved else ""
        halves = "" if config.data.tuning else "or data.tuning alone (half of it is held out), "
        raise DataError(
            f"no labelled held_out visit{why}; give data.held_out, {halves}or a 'split' column, or data.split=public"
        )


def _left_by_seed(placed: _Placed, config: Config) -> str:
    public, groups = config.data.split == "public", len(placed.seeded_groups)
    split = "data.split=public" if public else "halving data.tuning"
    many = f"{groups} or more" if groups == MANY_GROUPS else str(groups)
    empty = (
        "no labelled train visit" if not placed.counts["train", True] else "labelled train visits of one subject only"
    )
    if not placed.counts["held_out", True]:
        empty = "no labelled held_out visit"
    remedy = "data.held_out with data.split=files" if public else "data.held_out"
    return (
        f"{empty}: so {split} with seed={config.seed} divides the labelled subjects (without subject_id: inputs), {many} in number; expected "
        f"at least 2 subjects in train and 1 in held_out: give visits of more patients, another seed, or {remedy}"
    )


def _facts(counts: Counts, placed: _Placed, splitter: Splitter, config: Config) -> dict[str, Any]:
    return {
        "read": counts.read,
        "kept": counts.kept,
        "quarantined": counts.quarantined,
        "quarantined_by_reason": {
            reason: {"rows": rows, "first": counts.first[reason]} for reason, rows in sorted(counts.reasons.items())
        },
        "unlabeled": counts.unlabeled,
        "without_subject": counts.without_subject,
        "grouped_by": counts.grouped_by,
        "split": config.data.split,
        "halved_tuning": config.data.split == "files" and halves_tuning(config),
        "moved": splitter.moved,
        "teacher_saw_held_out": config.data.split == "public",
        "tuning": placed.tuning,
        "tuning_visits": placed.counts["tuning", True],
        "current_known": counts.current_known,
        "echoes": counts.echoes,
        "echo_rate": counts.echo_rate,
    }


def _counts(facts: Any) -> Counts:
    """The counts as they were when these facts were made, so that a resumed run says the same."""
    reasons = facts["quarantined_by_reason"]
    return Counts(
        read=facts["read"],
        kept=facts["kept"],
        reasons=Counter({reason: found["rows"] for reason, found in reasons.items()}),
        first={reason: found["first"] for reason, found in reasons.items()},
        unlabeled=facts["unlabeled"],
        without_subject=facts["without_subject"],
        current_known=facts["current_known"],
        echoes=facts["echoes"],
    )


def _spoken(cohort: Cohort) -> list[str]:
    facts = cohort.facts
    splits = ", ".join(f"{split} {cohort.count(split):,}" for split in ("train", "tuning", "held_out"))
    lines = [*_counts(facts).lines(), f"{splits} labelled visits in {len(cohort.shards):,} shards"]
    if facts["halved_tuning"]:
        lines.append("data.held_out is not given: data.tuning was divided into tuning and held_out by group")
    if facts["moved"]:
        lines.append(
            f"{facts['moved']:,} visits moved to an earlier split, where their subject (or identical input) already was"
        )
    if facts["teacher_saw_held_out"]:
        lines.append(
            "data.split=public: teacher_saw_held_out, the teacher's adapter may have been tuned on held_out visits"
        )
    if facts["tuning"] == "empty":
        lines.append("no labelled tuning visit: the last epoch is taken, nothing is calibrated")
    elif facts["tuning"] == "one_class":
        lines.append("tuning has one class only: the last epoch is taken, nothing is calibrated")
    if facts["tuning_visits"] < FEW_TUNING:
        lines.append(
            f"tuning has {facts['tuning_visits']} labelled visits, fewer than {FEW_TUNING}: the student trains a fixed number of epochs"
        )
    return lines
