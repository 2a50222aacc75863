"""What ablation.yaml says: seeds, sizes, base configuration, arms and criterion; and where a phase's files are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

SETUP = Path(__file__).with_name("ablation.yaml")
BASE = "base"
METRICS = ("macro_auroc", "macro_auprc", "log_loss")
Phase = Literal["selection", "confirmation"]
Figures = Mapping[tuple[str, int], Mapping[str, Any]]  # (arm, seed) -> the figures of that training


@dataclass(frozen=True)
class Arm:
    """One way of distilling: what it changes of the base configuration. `against` names the arm it is paired with."""

    name: str
    changes: str  # in words
    student: tuple[str, ...] = ()  # dotted overrides that only the student's training sees
    teacher: tuple[str, ...] = ()  # dotted overrides of head and soft labels; arms with equal ones share them
    adapter: str = "all"  # which teacher: its adapter was tuned on all train subjects, or on a share of them
    labels: Literal["", "shuffled", "true"] = ""  # what the benchmark writes in place of the soft labels
    kind: Literal["option", "control"] = "option"  # only an option may win
    against: str = BASE

    @property
    def shared(self) -> str:
        """The name of the stages that it shares with other arms."""
        return "-".join([self.adapter, *(change.replace("=", "_") for change in self.teacher)])


@dataclass(frozen=True)
class Setup:
    """The whole file. `raw` is what goes into the results."""

    raw: Mapping[str, Any]
    arms: tuple[Arm, ...]

    def arm(self, name: str) -> Arm:
        """An arm by its name. Raises KeyError."""
        return {arm.name: arm for arm in self.arms}[name]


@dataclass(frozen=True)
class Trial:
    """One phase of a set-up, in a working folder."""

    work: Path
    setup: Setup
    phase: Phase

    @property
    def seeds(self) -> list[int]:
        """The training seeds; arms with the same seed are a pair."""
        return list(self.setup.raw[self.phase]["seeds"])

    @property
    def generator_seed(self) -> int:
        """Of the cohort."""
        return int(self.setup.raw[self.phase]["generator_seed"])

    @property
    def folder(self) -> Path:
        """Where its cohort and shared stages lie."""
        return self.work / f"{self.phase}-{self.generator_seed}"

    def result_file(self, arm: str, seed: int) -> Path:
        """Where the figures of an arm and seed lie. It is there when they are done."""
        return self.work / "results" / self.phase / f"{arm}-{seed}.json"

    def results(self) -> Figures:
        """The finished arms."""
        keys = [(arm.name, seed) for arm in self.setup.arms for seed in self.seeds]
        return {key: json.loads(path.read_text()) for key in keys if (path := self.result_file(*key)).exists()}


def load_setup(path: Path = SETUP) -> Setup:
    """Read the set-up; its arms in the order in which they run."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    arms = []
    for name, row in raw["arms"].items():
        lists = {key: tuple(row[key]) for key in ("student", "teacher") if key in row}
        arms.append(Arm(name, **{**row, **lists}))
    names = [arm.name for arm in arms]
    if names[0] != BASE or not {arm.against for arm in arms} <= set(names) or raw["criterion"] not in METRICS:
        what = f"arm '{BASE}' first, known names in 'against', and one criterion of {', '.join(METRICS)}"
        raise ValueError(f"{path}: expected {what}")
    return Setup(raw, tuple(arms))
