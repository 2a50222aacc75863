"""What decides the student's values: base model and tokenizer, the visits and soft labels it learns from, its settings. Answers without
torch, so that a finished run says so in a second."""

from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError
from ckd.store.artifacts import Fields, FolderArtifact, Stage
from ckd.store.files import digest, join
from ckd.store.models import known_positions, model_fields
from ckd.student.examples import EMBEDDINGS, SOFT_LABELS
from ckd.visits.cohort import Cohort
from ckd.visits.visit import Shard

_KEY = "student.base_model"
_TEACHER = {  # the teacher's stages: the command that makes each, and how to do without
    SOFT_LABELS: ("soft-labels", "student.hard_weight=1"),
    EMBEDDINGS: ("embed", "student.embedding_weight=0"),
}
_DECIDING = (  # the keys of section student that change its values
    "max_length",
    "hard_weight",
    "temperature",
    "batch_size",
    "epochs",
    "patience",
    "learning_rate",
    "warmup_share",
    "weight_decay",
    "dropout",
    "use_unlabeled",
)
_OPTIONS = {"embedding_weight": 0, "class_weighting": "none"}  # in it only where set: older students stay valid


def training_shards(config: Config, cohort: Cohort) -> list[Shard]:
    """The shards that the student learns from. Unlabeled ones only where student.use_unlabeled asks for them."""
    return cohort.select("train", labeled=None if config.student.use_unlabeled else True)


def needs_soft_labels(config: Config) -> bool:
    """False only when the true labels have all the weight and no visit lacks them."""
    return config.student.hard_weight < 1 or config.student.use_unlabeled


def token_fields(config: Config) -> Fields:
    """The fingerprint of stage `tokens`.

    Raises ConfigError when student.base_model is neither a folder nor a Hub id, or knows fewer positions than student.max_length.
    """
    name, wanted = config.student.base_model, config.student.max_length
    known = known_positions(name)
    if known is not None and wanted > known:
        raise ConfigError(
            f"student.max_length={wanted}: {name} knows {known} positions; set student.max_length to at most that"
        )
    tokenizer = f"{_KEY} tokenizer"
    return {tokenizer: model_fields(_KEY, name)[tokenizer], "student.max_length": wanted}


def student_fields(config: Config, cohort: Cohort) -> Fields:
    """Everything that changes the student's values. Held-out visits are not in it: nothing of them is read.

    Raises ArtifactError when a soft-label part is missing, ConfigError when student.base_model cannot be found.
    """
    learned = training_shards(config, cohort)
    used = [*learned, *cohort.select("tuning")]
    return {
        **model_fields(_KEY, config.student.base_model),
        **{f"student.{name}": getattr(config.student, name) for name in _DECIDING},
        **{
            f"student.{name}": value
            for name, off in _OPTIONS.items()
            if (value := getattr(config.student, name)) != off
        },
        "visits": digest([[shard.split, shard.labeled, shard.content_hash] for shard in used]),
        "soft_labels": _made_by(config, SOFT_LABELS, learned) if needs_soft_labels(config) else None,
        **({EMBEDDINGS: _made_by(config, EMBEDDINGS, learned)} if config.student.embedding_weight > 0 else {}),
        "seed": config.seed,
        **({"teacher.adapter_share": config.teacher.adapter_share} if config.teacher.adapter_share else {}),
    }


def student_artifact(config: Config, fields: Fields) -> FolderArtifact:
    """`results/<run>/student/`."""
    return FolderArtifact(join(config.run.folder, "student"), fields)


def _made_by(config: Config, name: str, shards: list[Shard]) -> str:
    """What made the parts of a teacher's stage that the student learns from. Raises ArtifactError when one is missing, stale or made otherwise."""
    stage = Stage(config.run.artifacts_root, name, {})
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


def finished_student(config: Config) -> FolderArtifact:
    """The exported student of this configuration. Raises ArtifactError when it is missing, or naming the field when it is another's."""
    artifact = student_artifact(config, student_fields(config, Cohort.open(config.run.artifacts_root)))
    if not artifact.is_done():
        raise ArtifactError(f"{artifact.folder}: no student has been trained there; run 'ckd train-student' first")
    return artifact
