"""The stages of a run as a whole: the visits they start from, the shards each holds, and whether they belong to this configuration."""

from collections.abc import Callable

from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError, MismatchError
from ckd.predict.predictions import STAGE as PREDICTIONS
from ckd.predict.predictions import prediction_stage
from ckd.store.artifacts import Stage
from ckd.student.fingerprint import finished_student, token_fields
from ckd.student.tokens import STAGE as TOKENS
from ckd.teacher.embed import STAGE as EMBEDDINGS
from ckd.teacher.embed import embedding_stage, shards_to_embed
from ckd.teacher.soft_labels import STAGE as SOFT_LABELS
from ckd.teacher.soft_labels import soft_label_stage
from ckd.visits.cohort import STAGE as VISITS
from ckd.visits.cohort import Cohort, cohort_artifact
from ckd.visits.intake import configured_inputs
from ckd.visits.prepare import fingerprint
from ckd.visits.visit import Shard


def open_cohort(config: Config) -> Cohort:
    """The prepared visits. Raises ArtifactError when there are none, or naming the field when they come from other input than data.* names.

    Without any data.* key a stage takes the visits that are there.
    """
    inputs = configured_inputs(config.data)
    if inputs:
        cohort_artifact(config.run.artifacts_root, fingerprint(config, inputs)).is_done()
    return Cohort.open(config.run.artifacts_root)


def wanted_shards(config: Config, cohort: Cohort) -> dict[str, list[Shard]]:
    """Stage name -> its shards, in pipeline order."""
    embedded = shards_to_embed(config, cohort)
    return {
        VISITS: list(cohort.shards),
        EMBEDDINGS: embedded,
        SOFT_LABELS: embedded,
        TOKENS: embedded,
        PREDICTIONS: cohort.select("tuning", "held_out"),
    }


def refusals(config: Config, cohort: Cohort, say: Callable[[str], None]) -> list[str]:
    """Why what is stored would be refused by this configuration, each reason once. What has not been made yet is not refused; what cannot
    be compared here, because a model is not on this machine, is said.
    """
    wanted = wanted_shards(config, cohort)
    checks: list[Callable[[], object]] = [
        lambda: open_cohort(config),
        lambda: _first_part(embedding_stage(config), wanted[EMBEDDINGS]),
        lambda: _first_part(soft_label_stage(config), wanted[SOFT_LABELS]),
        lambda: _first_part(Stage(cohort.root, TOKENS, token_fields(config)), wanted[TOKENS]),
        lambda: finished_student(config),
        lambda: _first_part(prediction_stage(config), wanted[PREDICTIONS]),
    ]
    found: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for check in checks:
        try:
            check()
        except ConfigError as error:
            unknown[str(error)] = None
        except MismatchError as error:
            found[str(error)] = None
        except ArtifactError:
            continue  # not made yet, or damaged: the audit says so
    for reason in unknown:
        say(f"not compared {reason}")
    return list(found)


def _first_part(stage: Stage, shards: list[Shard]) -> None:
    """Compare the first part that is there: parts of one stage share their fingerprint, which the audit checks."""
    present = set(stage.indices())
    for shard in shards:
        if shard.index in present:
            stage.is_done(shard.index, rows=shard.rows, input_hash=shard.text_hash)
            return
