"""What decides the student's values: base model and tokenizer, the visits and soft labels it learns from, its settings. Answers without
torch, so that a finished run says so in a second."""

from ckd.cohort import Cohort
from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError
from ckd.pretrained import known_positions, model_fields
from ckd.store import Fields, FolderArtifact, Stage, digest, join
from ckd.visits import Shard

_KEY = "student.base_model"
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
        raise ConfigError(f"student.max_length={wanted}: {name} knows {known} positions; set student.max_length to at most that")
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
        "visits": digest([[shard.split, shard.labeled, shard.content_hash] for shard in used]),
        "soft_labels": _soft_labels(config.run.artifacts_root, learned) if needs_soft_labels(config) else None,
        "seed": config.seed,
        **({"teacher.adapter_share": config.teacher.adapter_share} if config.teacher.adapter_share else {}),
    }


def student_artifact(config: Config, fields: Fields) -> FolderArtifact:
    """`results/<run>/student/`."""
    return FolderArtifact(join(config.run.folder, "student"), fields)


def _soft_labels(root: str, shards: list[Shard]) -> str:
    stage = Stage(root, "soft_labels", {})
    made: set[str] = set()
    for shard in shards:
        footer = stage.footer(shard.index)
        if footer is None:
            raise ArtifactError(f"{stage.path(shard.index)}: missing; run 'ckd soft-labels' first, or set student.hard_weight=1 to do without")
        made.add(digest(dict(footer.fields)))
    if len(made) > 1:
        raise ArtifactError(f"{stage.folder}: its parts come from {len(made)} different heads; delete the folder and run 'ckd soft-labels' again")
    return digest(sorted(made))


def finished_student(config: Config) -> FolderArtifact:
    """The exported student of this configuration. Raises ArtifactError when it is missing, or naming the field when it is another's."""
    artifact = student_artifact(config, student_fields(config, Cohort.open(config.run.artifacts_root)))
    if not artifact.is_done():
        raise ArtifactError(f"{artifact.folder}: no student has been trained there; run 'ckd train-student' first")
    return artifact
