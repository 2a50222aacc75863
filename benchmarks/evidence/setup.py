"""What benchmarks/evidence/ablation.yaml says: seeds, sizes, the base configuration, the arms and the criterion. Making the cohort is
ablation_cohort's business, running an arm ablation_arms'."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

SETUP = Path(__file__).with_suffix(".yaml").with_name("ablation.yaml")
BASE = "base"
METRICS = ("macro_auroc", "macro_auprc", "log_loss")
Phase = Literal["selection", "confirmation"]


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

    def seeds(self, phase: Phase) -> list[int]:
        """The training seeds of a phase; arms with the same seed are a pair."""
        return list(self.raw[phase]["seeds"])

    def arm(self, name: str) -> Arm:
        """An arm by its name. Raises KeyError."""
        return {arm.name: arm for arm in self.arms}[name]


def load_setup(path: Path = SETUP) -> Setup:
    """Read the set-up; its arms in the order in which they run."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    arms = []
    for name, row in raw["arms"].items():
        lists = {key: tuple(row[key]) for key in ("student", "teacher") if key in row}
        arms.append(Arm(name, **{**row, **lists}))
    names = [arm.name for arm in arms]
    if names[0] != BASE or not {arm.against for arm in arms} <= set(names) or raw["criterion"] not in METRICS:
        raise ValueError(
            f"{path}: expected the arm '{BASE}' first, known names in 'against', and one criterion of {', '.join(METRICS)}"
        )
    return Setup(raw, tuple(arms))
