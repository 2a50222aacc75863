"""Which shards each stage of a run holds, for status and verify."""

from ckd.cohort import STAGE as VISITS
from ckd.cohort import Cohort
from ckd.config import Config
from ckd.student.predict import STAGE as PREDICTIONS
from ckd.student.tokens import STAGE as TOKENS
from ckd.teacher.embed import STAGE as EMBEDDINGS
from ckd.teacher.embed import shards_to_embed
from ckd.teacher.soft_labels import STAGE as SOFT_LABELS
from ckd.visits import Shard


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
