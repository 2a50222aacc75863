"""What decides the student's values: base model and tokenizer, the visits and soft labels it learns from, its settings. Answers without
torch, so that a finished run says so in a second."""

from ckd.config import Config
from ckd.errors import ArtifactError
from ckd.run import Run, deciding
from ckd.stage import FolderStep
from ckd.store.artifacts import Fields, Stage, require_equal
from ckd.store.files import digest
from ckd.store.models import model_fields
from ckd.student.examples import EMBEDDINGS, SOFT_LABELS
from ckd.visits.cohort import Cohort
from ckd.visits.visit import Shard

_KEY = "student.base_model"
_TEACHER = {  # the teacher's stages: the command that makes each, and how to do without
    SOFT_LABELS: ("soft-labels", "student.hard_weight=1"),
    EMBEDDINGS: ("embed", "student.embedding_weight=0"),
}


def training_shards(config: Config, cohort: Cohort) -> list[Shard]:
    """The shards that the student learns from. Unlabeled ones only where student.use_unlabeled asks for them."""
    return cohort.select("train", labeled=None if config.student.use_unlabeled else True)


def needs_soft_labels(config: Config) -> bool:
    """False only when the true labels have all the weight and no visit lacks them."""
    return config.student.hard_weight < 1 or config.student.use_unlabeled


def require_same_base(run: Run) -> None:
    """Raise MismatchError when this machine sees another base model under student.base_model than the driver did."""
    wanted = {name: value for name, value in STUDENT.artifact(run).fields.items() if name.startswith(_KEY)}
    name = run.config.student.base_model
    require_equal(f"{_KEY}={name} on this machine", model_fields(_KEY, name), wanted)


def _fingerprint(run: Run) -> Fields:
    """Everything that changes the student's values. Held-out visits are not in it: nothing of them is read.

    Raises ArtifactError when a soft-label part is missing, ConfigError when student.base_model cannot be found.
    """
    config = run.config
    learned = training_shards(config, run.stored)
    used = [*learned, *run.stored.select("tuning")]
    share = config.teacher.adapter_share
    return {
        **model_fields(_KEY, config.student.base_model),
        **deciding(config, "student"),
        "visits": digest([[shard.split, shard.labeled, shard.content_hash] for shard in used]),
        "soft_labels": _made_by(run, SOFT_LABELS, learned) if needs_soft_labels(config) else None,
        **({EMBEDDINGS: _made_by(run, EMBEDDINGS, learned)} if config.student.embedding_weight > 0 else {}),
        "seed": config.seed,
        **({"teacher.adapter_share": share} if share else {}),
    }


STUDENT = FolderStep(
    name="student",
    command="ckd train-student",
    fingerprint=_fingerprint,
    folder=lambda run: run.student_folder,
)


def _made_by(run: Run, name: str, shards: list[Shard]) -> str:
    """What made the parts of a teacher's stage that the student learns from. Raises ArtifactError when one is missing, stale or made otherwise."""
    stage = Stage(run.root, name, {})
    command, instead = _TEACHER[name]
    made: set[str] = set()
    for shard in shards:
        footer = stage.footer(shard.index)
        if footer is None:
            raise ArtifactError(
                f"{stage.path(shard.index)}: missing; run 'ckd {command}' first, or set {instead} to do without"
            )
        if footer.input_hash != shard.text_hash:
            raise ArtifactError(
                f"{stage.path(shard.index)}: made from other visits than the shard holds; delete it and run 'ckd {command}' again"
            )
        made.add(digest(dict(footer.fields)))
    if len(made) > 1:
        raise ArtifactError(
            f"{stage.folder}: its parts were made in {len(made)} different ways; delete the folder and run 'ckd {command}' again"
        )
    return digest(sorted(made))
