"""What decides the student's values: base model and tokenizer, the visits and soft labels it learns from, its settings. Answers without
torch, so that a finished run says so in a second."""

from ckd.cohort import Cohort
from ckd.config import Config
from ckd.errors import ArtifactError
from ckd.pretrained import model_fields
from ckd.store import Fields, FolderArtifact, Stage, digest, join
from ckd.visits import Shard

_KEY = "student.base_model"


def training_shards(config: Config, cohort: Cohort) -> list[Shard]:
    """The shards that the student learns from. Unlabeled ones only where student.use_unlabeled asks for them."""
    return cohort.select("train", labeled=None if config.student.use_unlabeled else True)


def needs_soft_labels(config: Config) -> bool:
    """False only when the true labels have all the weight and no visit lacks them."""
    return config.student.hard_weight < 1 or config.student.use_unlabeled


def token_fields(config: Config) -> Fields:
    """The fingerprint of stage `tokens`. Raises ConfigError when student.base_model is neither a folder nor a Hub id."""
    return {"tokenizer": model_fields(_KEY, config.student.base_model)["tokenizer"], "max_length": config.student.max_length}


def student_fields(config: Config, cohort: Cohort) -> Fields:
    """Everything that changes the student's values. Held-out visits are not in it: nothing of them is read.

    Raises ArtifactError when a soft-label part is missing, ConfigError when student.base_model cannot be found.
    """
    s = config.student
    learned = training_shards(config, cohort)
    used = [*learned, *cohort.select("tuning")]
    return {
        **model_fields(_KEY, s.base_model),
        "max_length": s.max_length,
        "visits": digest([[shard.split, shard.labeled, shard.content_hash] for shard in used]),
        "soft_labels": _soft_labels(config.run.artifacts_root, learned) if needs_soft_labels(config) else None,
        "hard_weight": s.hard_weight,
        "temperature": s.temperature,
        "batch_size": s.batch_size,
        "epochs": s.epochs,
        "patience": s.patience,
        "learning_rate": s.learning_rate,
        "warmup_share": s.warmup_share,
        "weight_decay": s.weight_decay,
        "dropout": s.dropout,
        "use_unlabeled": s.use_unlabeled,
        "seed": config.seed,
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
    return digest(sorted(made))
