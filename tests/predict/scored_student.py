"""An untrained student with a calibration, as training and evaluation leave one, for whatever scores texts."""

import shutil
from pathlib import Path

import numpy as np
import torch

from ckd.calibration import FILE, Calibration, Map
from ckd.store.artifacts import FolderArtifact
from ckd.student.model import new_student
from ckd.visits.labels import DISEASES, NUM_LABELS
from tests.student.student_cohort import make_base, make_config


def make_student(root: Path, *, calibrated: bool = True) -> str:
    """Make an untrained student in <root>/student, committed as by training, with a calibration that changes values."""
    config = make_config(root, make_base(root / "base"))
    folder = root / "student"
    model = new_student(config, DISEASES).model
    with torch.no_grad():
        model.classifier.weight.mul_(30)  # figures far from .5
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(root / "base" / name, folder / name)
    artifact = FolderArtifact(str(folder), {"student.max_length": 32})
    artifact.commit(sorted(path.name for path in folder.iterdir()))
    if calibrated:
        maps = tuple(Map("platt", slope=0.5 + j / 50, intercept=j / 100 - 0.1) for j in range(NUM_LABELS))
        Calibration(maps, np.linspace(0.3, 0.7, NUM_LABELS)).save(str(folder / FILE), DISEASES, artifact.identity())
    return str(folder)
