"""The student's training in this process, as most of its tests run it."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from ckd.config import Config
from ckd.run import Run
from ckd.student.train import best_checkpoint, train
from tests.student.student_cohort import at_url, make_cohort, make_config, make_tokens, make_visits

VISITS = [*make_visits("train", 30), *make_visits("tuning", 55), *make_visits("held_out", 10)]


class MachineLostError(Exception):
    """The machine went away."""


class Ear:
    """Collects reports; raises MachineLostError at the first checkpoint at or after a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.reports, self.finished = stop_at, [], False

    def __call__(self, figures) -> None:
        self.reports.append(figures)
        if self.stop_at is not None and figures.get("checkpoint", -1) >= self.stop_at:
            raise MachineLostError

    def norms(self) -> dict[int, float]:
        return {r["step"]: r["gradient_norm"] for r in self.reports if "loss" in r}

    def losses(self) -> dict[int, float]:
        return {r["step"]: r["loss"] for r in self.reports if "loss" in r}


def run_train(config: Config, ear: Ear | None = None, preempted=lambda: False) -> Ear:
    ear = ear or Ear()
    ear.finished = train(
        Run(config), world=1, rank=0, preempted=preempted, report=ear, deepspeed=False, seconds_between=0
    )
    return ear


def prepared(folder: Path, base: str, visits=VISITS, root: str = "", **student) -> Config:
    config = make_config(folder, base, **student)
    config = at_url(config, root) if root else config
    make_cohort(config.run.artifacts_root, visits)
    make_tokens(config)
    return config


def weights(config: Config) -> dict[str, torch.Tensor]:
    return load_file(Path(best_checkpoint(Run(config), print).fetched()) / "model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
