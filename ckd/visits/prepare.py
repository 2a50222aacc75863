"""Makes the stage `visits`: input files -> splits -> the stored cohort, with everything that was counted.

It says what a reader of the results must know, and refuses what would make them worthless, before any model is loaded.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from ckd.config import Config
from ckd.errors import DataError
from ckd.store.artifacts import Fields
from ckd.visits.cohort import Cohort, cohort_artifact, commit, quarantine_file
from ckd.visits.evidence import Evidence
from ckd.visits.inputs import Input
from ckd.visits.intake import Counts, Intake
from ckd.visits.splits import Splitter
from ckd.visits.task import GENERIC, Task
from ckd.visits.visit import SPLITS, Split, Visit

VISITS_VERSION = 2  # raise it when the same input gives other rows, ids or splits
FEW_TUNING = 50
MANY_GROUPS = 100  # up to so many are counted exactly; the rules and messages below need no more
Say = Callable[[str], None]


def prepare(config: Config, inputs: list[Input], task: Task, fields: Fields, say: Say) -> Cohort:
    """The run's visits: opened when they are there, else made. `fields` is their fingerprint.

    Raises DataError for input that must not be used as it is (missing, too many bad rows, contradicting splits, no
    labelled train or held_out visit), ArtifactError when stored visits come from other input.
    """
    if not inputs:
        example = "data.train=data/name_train.json"
        raise DataError(f"data.train is empty; expected the path of the training visits, such as {example}")
    root = config.run.artifacts_root
    cohort = Cohort.open(root) if cohort_artifact(root, fields).is_done() else None
    if cohort is None or not cohort.is_whole():
        cohort = _Preparation(config, inputs, task, fields).run()
    counts = _counts(cohort.facts)
    passed_over = [line for each in inputs for line in each.lines()]
    for line in [*passed_over, *counts.lines(config.teacher.system), *_notes(cohort)]:
        say(f"visits: {line}")
    counts.require_at_most(config.data.max_bad_rows, quarantine_file(root))
    return cohort


def halves_tuning(config: Config) -> bool:
    """Whether data.tuning gives the held_out visits too."""
    return bool(config.data.tuning) and not config.data.held_out


@dataclass
class _Placed:
    """Counts visits per split, as far as the rules below need it. Memory does not grow with the cohort."""

    task: Task
    counts: Counter[tuple[Split, bool]] = field(default_factory=Counter)  # by (split, labelled)
    train_groups: set[int] = field(default_factory=set)  # of labelled visits: the first two
    seeded_groups: set[int] = field(default_factory=set)  # of those that the seed placed: the first MANY_GROUPS

    def __post_init__(self) -> None:
        self.of_train, self.of_tuning = Evidence(self.task.names), Evidence(self.task.names)

    def add(self, split: Split, visit: Visit, *, seeded: bool) -> None:
        labels = visit.labels
        self.counts[split, labels is not None] += 1
        if labels is None:
            return
        if split == "train":
            self.of_train.add(labels, visit.group if self.of_train.alone else 0)  # a hash is not free
            if len(self.train_groups) < 2:
                self.train_groups.add(visit.group)
        if seeded and len(self.seeded_groups) < MANY_GROUPS:
            self.seeded_groups.add(visit.group)
        if split == "tuning" and not self.of_tuning.mixed:
            self.of_tuning.add(labels, visit.group)

    @property
    def tuning(self) -> str:
        if not self.counts["tuning", True]:
            return "empty"
        return "ok" if self.of_tuning.mixed else "one_class"


class _Preparation:
    """One pass over the inputs. `facts` is complete after the last visit."""

    def __init__(self, config: Config, inputs: list[Input], task: Task, fields: Fields) -> None:
        self.config, self.inputs, self.task, self.fields = config, inputs, task, fields
        self.splitter = Splitter(config.data.split, config.seed, halve_tuning=halves_tuning(config))
        self.placed = _Placed(task)
        self.facts: dict[str, Any] = {}

    def run(self) -> Cohort:
        root, rows = self.config.run.artifacts_root, self.config.data.shard_rows
        with tempfile.TemporaryFile() as quarantine:
            visits, facts = self._visits(quarantine), self.facts
            groups = tuple(dict.fromkeys(name for each in self.inputs for name in each.subgroups))
            settings: Any = {"fields": self.fields, "shard_rows": rows, "task": self.task, "subgroups": groups}
            cohort = commit(root, visits, facts=facts, **settings)
        stored = cohort.count(labeled=None)
        if stored != self.facts["kept"]:
            raise RuntimeError(f"{self.facts['kept']} visits kept, but the shards hold {stored}")
        return cohort

    def _visits(self, quarantine: BinaryIO) -> Iterator[Visit]:
        intake, allowed = Intake(self.inputs, quarantine), self.config.data.max_bad_rows
        for visit, location in intake:
            split = self.splitter.place(visit, location)
            self.placed.add(split, visit, seeded=self._seeded(visit, split))
            if intake.counts.quarantined <= allowed:  # beyond it the run stops: the rest is counted, not stored
                visit = visit if visit.split == split else replace(visit, split=split)
                yield replace(visit, instruction=GENERIC) if self.config.task.instruction == "generic" else visit
        counts = intake.settle(allowed, quarantine_file(self.config.run.artifacts_root))
        self.splitter.check()
        _require_both(self.placed, self.splitter.moved, self.config)
        self.facts.update(_facts(counts, self.placed, self.splitter, self.config))
        if found := intake.groups.found():
            self.facts["subgroups"] = found

    def _seeded(self, visit: Visit, split: Split) -> bool:
        if self.config.data.split == "public":
            return True
        return halves_tuning(self.config) and visit.source == "tuning" and visit.split is None and split != "train"


def _require_both(placed: _Placed, moved: int, config: Config) -> None:
    no_held_out = not placed.counts["held_out", True]
    if placed.seeded_groups and (no_held_out or (config.data.split == "public" and len(placed.train_groups) < 2)):
        raise DataError(_left_by_seed(placed, config))
    if not placed.counts["train", True]:
        raise DataError(
            "no labelled train visit; expected rows of data.train with 'output' (Parquet: labels) that their own split "
            "or the file puts into train: check data.train and the split column"
        )
    if len(placed.train_groups) < 2:
        raise DataError(
            "all labelled train visits have one subject (without subject_id: one input); expected at least 2, since "
            "the head is cross-fitted by subject: give visits of more patients in data.train, or check subject_id"
        )
    if no_held_out:
        why = f" ({moved:,} visits were moved to earlier splits, where their subject already was)" if moved else ""
        halves = "" if config.data.tuning else "or data.tuning alone (half of it is held out), "
        remedy = f"give data.held_out, {halves}or a 'split' column, or data.split=public"
        raise DataError(f"no labelled held_out visit{why}; {remedy}")
    if alone := placed.of_train.alone:
        raise DataError(
            f"{_named(alone)} known for train visits of fewer than 2 subjects (without subject_id: inputs); expected 2 "
            "for every label, since the head is cross-fitted by subject: give their values, or leave them out of "
            "task.labels"
        )


def _named(names: Sequence[str]) -> str:
    """The subject of a sentence about some labels: the first three, and how many there are."""
    shown = ", ".join(f"'{name}'" for name in names[:3]) + (", …" if len(names) > 3 else "")
    return f"label {shown} is" if len(names) == 1 else f"{len(names)} labels ({shown}) are"


def _left_by_seed(placed: _Placed, config: Config) -> str:
    public, groups = config.data.split == "public", len(placed.seeded_groups)
    divider = "data.split=public" if public else "halving data.tuning"
    many = f"{groups} or more" if groups == MANY_GROUPS else str(groups)
    empty = "labelled train visits of one subject only"
    for split in ("train", "held_out"):
        if not placed.counts[split, True]:
            empty = f"no labelled {split} visit"
    remedy = "data.held_out with data.split=files" if public else "data.held_out"
    return (
        f"{empty}: so {divider} with seed={config.seed} divides the labelled subjects (without subject_id: inputs), "
        f"{many} in number; expected at least 2 subjects in train and 1 in held_out: "
        f"give visits of more patients, another seed, or {remedy}"
    )


_COUNTED = ("read", "kept", "unlabeled", "without_subject", "current_known", "echoes")  # of Counts, and facts alike
_NEVER = {"never_true": True, "never_false": False}  # facts that are there only where there are such labels


def _facts(counts: Counts, placed: _Placed, splitter: Splitter, config: Config) -> dict[str, Any]:
    reasons = {reason: {"rows": rows, "first": counts.first[reason]} for reason, rows in sorted(counts.reasons.items())}
    return {
        **{name: getattr(counts, name) for name in _COUNTED},
        "unread": dict(sorted(counts.unread.items())),
        "systems": counts.systems,
        "quarantined": counts.quarantined,
        "quarantined_by_reason": reasons,
        "grouped_by": counts.grouped_by,
        "split": config.data.split,
        "halved_tuning": config.data.split == "files" and halves_tuning(config),
        "moved": splitter.moved,
        "teacher_saw_held_out": config.data.split == "public",
        "tuning": placed.tuning,
        "tuning_visits": placed.counts["tuning", True],
        "echo_rate": counts.echo_rate,
        **{fact: never for fact, flag in _NEVER.items() if (never := placed.of_train.never(flag))},
    }


def _counts(facts: Any) -> Counts:
    """The counts from which these facts were made: a run that continues says the same."""
    reasons = facts["quarantined_by_reason"]
    return Counts(
        **{name: facts[name] for name in _COUNTED},
        reasons=Counter({reason: found["rows"] for reason, found in reasons.items()}),
        first={reason: found["first"] for reason, found in reasons.items()},
        unread=Counter(facts.get("unread", {})),  # not in what was prepared before it was counted
        systems=facts.get("systems", []),
    )


def _notes(cohort: Cohort) -> list[str]:
    """What a person has to know about the splits."""
    facts = cohort.facts
    splits = ", ".join(f"{split} {cohort.count(split):,}" for split in SPLITS)
    lines = [f"{splits} labelled visits in {len(cohort.shards):,} shards"]
    if facts["halved_tuning"]:
        lines.append("data.held_out is not given: data.tuning was divided into tuning and held_out by group")
    if facts["moved"]:
        moved = f"{facts['moved']:,} visits moved to an earlier split"
        lines.append(f"{moved}, where their subject (or identical input) already was")
    for name, found in facts.get("subgroups", {}).items():
        lines.append(f"subgroup '{name}': {found['values']} values, unknown in {found['unknown']:,} visits")
    if facts["teacher_saw_held_out"]:
        seen = "the teacher's adapter may have been tuned on held_out visits"
        lines.append(f"data.split=public: teacher_saw_held_out, {seen}")
    for fact, flag in _NEVER.items():
        if names := facts.get(fact):
            lines.append(f"{_named(names)} never {str(flag).lower()} in train: nothing tells who has it")
    if facts["tuning"] == "empty":
        lines.append("no labelled tuning visit: the last epoch is taken, nothing is calibrated")
    elif facts["tuning"] == "one_class":
        lines.append("tuning has one class only: the last epoch is taken, nothing is calibrated")
    if facts["tuning_visits"] < FEW_TUNING:
        few = f"tuning has {facts['tuning_visits']} labelled visits, fewer than {FEW_TUNING}"
        lines.append(f"{few}: the student trains a fixed number of epochs")
    return lines
