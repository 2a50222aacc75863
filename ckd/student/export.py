"""The finished student as others use it: `results/<run>/student/` (loads with from_pretrained) and the public best_model.pt. Training
chose the checkpoint; predictions are predict's."""

from collections.abc import Callable
from pathlib import Path

from ckd.cohort import Cohort
from ckd.compat import student_file, write_tensors
from ckd.config import Config
from ckd.errors import ConfigError
from ckd.store import Fields, is_local, join, size_and_hash
from ckd.student.fingerprint import student_artifact
from ckd.student.tokens import load_tokenizer
from ckd.student.train import best_checkpoint


def export(config: Config, fields: Fields, say: Callable[[str], None]) -> str:
    """Write the best epoch's student in float32 with its tokenizer, artifact.json last; returns the folder. Safe to run twice.

    Raises ArtifactError when training has not finished, ConfigError when run.results is no folder.
    """
    artifact = student_artifact(config, fields)
    if not is_local(artifact.folder):
        raise ConfigError(f"run.results={config.run.results}: the student is written to a local or shared folder; set run.results to one")
    best = best_checkpoint(config, say)
    from ckd.student.model import load_student

    model = load_student(best.folder)
    tokenizer = load_tokenizer(config.student.base_model)
    tokenizer.model_max_length = config.student.max_length
    model.save_pretrained(artifact.folder)
    tokenizer.save_pretrained(artifact.folder)
    public = write_public(config)
    files = [
        path.name for path in Path(artifact.folder).iterdir() if path.is_file() and path.name != "artifact.json" and not path.name.startswith(".")
    ]
    facts = Cohort.open(config.run.artifacts_root).facts
    extra = {"step": best.step, "selection": best.extra["selection"], "best_model": size_and_hash(public)}
    artifact.commit(files, extra | {"teacher_saw_held_out": facts.get("teacher_saw_held_out", False)})
    return artifact.folder


def write_public(config: Config) -> str:
    """Write the exported student's weights as the public best_model.pt; returns its path."""
    from ckd.student.model import load_student

    path = student_file(config.run.results, config.student.hard_weight)
    write_tensors(path, load_student(join(config.run.folder, "student")).state_dict())
    return path
