"""A run that is trained, predicted, evaluated and calibrated, as small as it goes, for tests of a finished one."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from ckd.calibration import FILE, Calibration, Map
from ckd.config import Config, EvaluationConfig
from ckd.evaluation.evaluate import evaluate
from ckd.run import Run
from ckd.store.artifacts import FolderArtifact
from ckd.visits.labels import DISEASES, NUM_LABELS
from jobs import train_student
from jobs.console import Console
from jobs.predict_student import predict_splits
from tests.student.student_cohort import make_base, make_cohort, make_config, make_visits


def attentive(folder: Path) -> str:
    """Make a base model whose [CLS] follows the other words: with fresh weights all texts score nearly the same."""
    base = make_base(folder)
    model = AutoModel.from_pretrained(base)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(20) if weights.dim() == 2 else None
    model.save_pretrained(base)
    return base


def finished_run(root: Path, *, held_out: int = 120, **student: object) -> Config:
    """Train one epoch on 48 visits; the calibration is made up."""
    config = make_config(root, attentive(root / "base"), epochs=1, **student)
    visits = [*make_visits("train", 48), *make_visits("tuning", 60), *make_visits("held_out", held_out)]
    make_cohort(config.run.artifacts_root, visits)
    console = Console(io.StringIO())
    train_student.run(config, console)
    predict_splits(Run(config), console, ("tuning", "held_out"))
    metrics = evaluate(Run(config).cohort, seed=0, say=lambda _: None, wanted=EvaluationConfig(resamples=100))
    folder = Path(config.run.folder, "student")
    model = FolderArtifact(str(folder), {}).identity()
    Path(config.run.folder, "metrics.json").write_text(json.dumps({"model": model, **metrics}))
    maps = tuple(Map("platt", slope=1 + j / 50, intercept=-j / 100) for j in range(NUM_LABELS))
    Calibration(maps, np.linspace(0.3, 0.7, NUM_LABELS)).save(str(folder / FILE), DISEASES, model)
    return config
