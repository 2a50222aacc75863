"""The finished student as others use it: `results/<run>/student/`, and the public best_model.pt."""

import tempfile
from collections.abc import Callable
from typing import Any

from ckd.run import Run
from ckd.store.files import size_and_hash
from ckd.store.pretrained import Source, load_tokenizer
from ckd.store.unwritable import writing
from ckd.student.fingerprint import STUDENT
from ckd.student.train import best_checkpoint
from ckd.visits.labels import CCS25
from ckd.visits.public_files import student_file, write_tensors
from ckd.visits.task import TASK_IN_CONFIG


def export(run: Run, say: Callable[[str], None]) -> str:
    """Write the best epoch's student in float32 with its tokenizer; returns the folder. Safe to run twice.

    Raises ArtifactError when training has not finished.
    """
    config, artifact = run.config, STUDENT.artifact(run)
    best = best_checkpoint(run, say)
    from ckd.student.model import load_student

    model = load_student(best.fetched(everything=False))
    tokenizer = load_tokenizer(Source.find("student.base_model", config.student.base_model))
    tokenizer.model_max_length = config.student.max_length
    if run.cohort.task.identity != CCS25.identity:
        setattr(model.config, TASK_IN_CONFIG, run.cohort.task.stored)  # whoever loads it knows what its figures mean
    public = write_public(run, model)
    facts = run.cohort.facts
    extra = {"step": best.step, "selection": best.extra["selection"], "best_model": size_and_hash(public)}
    with tempfile.TemporaryDirectory() as folder, writing(folder):  # the libraries need a real one
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        artifact.commit_from(folder, extra | {"teacher_saw_held_out": facts.get("teacher_saw_held_out", False)})
    return artifact.folder


def write_public(run: Run, model: Any = None) -> str:
    """Write a student's weights (None: the exported one's) as the public best_model.pt; returns its path."""
    from ckd.student.model import load_student

    path = student_file(run.config.run.public_results, run.config.student.hard_weight)
    model = load_student(STUDENT.artifact(run).fetched()) if model is None else model
    with run.owner.writing(path):
        write_tensors(path, model.state_dict())
    return path
