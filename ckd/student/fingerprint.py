"""What decides the student's values: base model and tokenizer, visits, the teacher's data, settings.

Answered without torch, so that a finished run says so in a second.
"""

from ckd.config import Config
from ckd.errors import ArtifactError
from ckd.run import Run, deciding
from ckd.stage import FolderStep
from ckd.store.artifacts import Fields, Stage, require_equal
from ckd.store.files import digest
from ckd.store.models import local_folder, model_fields
from ckd.student.examples import SOFT_LABELS
from ckd.student.loss import TeacherData, teacher_data
from ckd.visits.cohort import Cohort
from ckd.visits.labels import CCS25
from ckd.visits.visit import Shard

_KEY = "student.base_model"


def training_shards(config: Config, cohort: Cohort) -> list[Shard]:
    """The shards that the student learns from, unlabeled ones only with student.use_unlabeled."""
    return cohort.select("train", labeled=None if config.student.use_unlabeled else True)


def require_same_base(run: Run) -> None:
    """Raise MismatchError when this machine has another base model under student.base_model than the driver."""
    wanted = {name: value for name, value in STUDENT.artifact(run).fields.items() if name.startswith(_KEY)}
    name = run.config.student.base_model
    local_folder(_KEY, name)  # of a URL this machine's copy is what is hashed, and loaded
    require_equal(f"{_KEY}={name} on this machine", model_fields(_KEY, name), wanted)


def _fingerprint(run: Run) -> Fields:
    """Everything that changes the student's values. Of held-out visits nothing is read.

    Raises ArtifactError when a soft-label part is missing, ConfigError when student.base_model cannot be found.
    """
    config = run.config
    learned = training_shards(config, run.stored)
    used = [*learned, *run.stored.select("tuning")]
    share, task = config.teacher.adapter_share, run.stored.task.identity
    return {
        **model_fields(_KEY, config.student.base_model),
        **deciding(config, "student"),
        "visits": digest([[shard.split, shard.labeled, shard.content_hash] for shard in used]),
        SOFT_LABELS: None,  # stays where they have no weight
        **{data.stage: _made_by(run, data, learned) for data in teacher_data(config.student)},
        "seed": config.seed,
        **({"teacher.adapter_share": share} if share else {}),
        **({} if task == CCS25.identity else {"task": task}),
    }


STUDENT = FolderStep(
    name="student",
    needs=("tokens", "embeddings", "soft_labels"),
    command="ckd train-student",
    fingerprint=_fingerprint,
    folder=lambda run: run.student_folder,
    libraries=["torch", "transformers", "deepspeed"],
)


def _made_by(run: Run, data: TeacherData, shards: list[Shard]) -> str:
    """What made the parts of a teacher's stage. Raises ArtifactError when one is missing, stale or made otherwise."""
    stage, again = Stage(run.root, data.stage, {}), f"run 'ckd {data.command}' again"
    made: set[str] = set()
    for shard in shards:
        footer = stage.footer(shard.index)
        if footer is None:
            raise ArtifactError(
                f"{stage.path(shard.index)}: missing; run 'ckd {data.command}' first, "
                f"or set {data.instead} to do without"
            )
        if footer.input_hash != shard.text_hash:
            raise ArtifactError(
                f"{stage.path(shard.index)}: made from other visits than the shard holds; delete it and {again}"
            )
        made.add(digest(dict(footer.fields)))
    if len(made) > 1:
        raise ArtifactError(
            f"{stage.folder}: its parts were made in {len(made)} different ways; delete the folder and {again}"
        )
    return digest(sorted(made))
