"""The stages of a run in their order. status, verify, a dry run and the refusals read this one list."""

from collections.abc import Callable

from ckd.errors import ArtifactError, ConfigError, DataError, MismatchError, ModelUnreachableError
from ckd.predict.predictions import PREDICTIONS
from ckd.run import Run
from ckd.stage import VISITS, FolderStep, Step
from ckd.student.fingerprint import STUDENT
from ckd.student.tokens import TOKENS
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.head import HEAD
from ckd.teacher.soft_labels import SOFT_LABELS

STAGES: tuple[Step | FolderStep, ...] = (VISITS, EMBEDDINGS, HEAD, SOFT_LABELS, TOKENS, STUDENT, PREDICTIONS)
STEPS = tuple(stage for stage in STAGES if isinstance(stage, Step))
FOLDERS = tuple(stage for stage in STAGES if isinstance(stage, FolderStep))


def made_from(name: str) -> list[str]:
    """The stages that are made from a stage, directly or not, in their order."""
    found = {name}
    for stage in STAGES:
        if found & set(stage.needs):
            found.add(stage.name)
    return [stage.name for stage in STAGES if stage.name in found - {name}]


def refusals(run: Run, say: Callable[[str], None]) -> list[str]:
    """Why what is stored would be refused by this configuration, each reason once.

    What has not been made yet is not refused. What cannot be compared, because an input or a model is not on this
    machine or its hub does not answer, goes to `say`.
    """
    found: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for check in (_open, *(stage.compare for stage in STAGES[1:])):
        try:
            check(run)
        except (ConfigError, DataError, ModelUnreachableError) as error:
            unknown[str(error)] = None
        except MismatchError as error:
            found[str(error)] = None
        except ArtifactError:
            continue  # not made yet, or damaged: the audit says so
    for reason in unknown:
        say(f"not compared {reason}")
    return list(found)


def _open(run: Run) -> None:
    """Compare the visits that are there with this configuration's input."""
    _ = run.cohort
