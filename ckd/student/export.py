"""The finished student as others use it: `results/<run>/student/` (loads with from_pretrained) and the public best_model.pt. Training
chose the checkpoint; predictions are predict's."""

from collections.abc import Callable
from pathlib import Path

from ckd.compat import student_file, write_tensors
from ckd.config import Config
from ckd.errors import ConfigError
from ckd.store import Fields, is_local
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
    write_tensors(student_file(config.run.results, config.student.hard_weight), model.state_dict())
    files = [
        path.name for path in Path(artifact.folder).iterdir() if path.is_file() and path.name != "artifact.json" and not path.name.startswith(".")
    ]
    artifact.commit(files, {"step": best.step, "selection": best.extra["selection"]})
    return artifact.folder
