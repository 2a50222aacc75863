"""Job: prove that a run's files are whole.

The visits are those that were prepared; every visit_id stands once in every artifact's parts, in the order of its
visits; embeddings, logits, probabilities and token ids are finite and in range, and every column holds what its footer
names; the files of head, student and checkpoints and the public files are those that were written; calibration.json,
where it is, is that student's and holds, as metrics.json does, what was written. Parts of one stage that were made with
other versions of a library are shown, and are no damage. That a model really computed those values cannot be proved.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence

from ckd.calibration import Calibration
from ckd.config import Config
from ckd.errors import ArtifactError, IncompleteError
from ckd.run import Run
from ckd.stage import FolderStep
from ckd.store.artifacts import FolderArtifact
from ckd.store.jsonfile import read_json
from ckd.student.checkpoint import Checkpoints
from ckd.visits.audit import StageAudit, audit_ids, audit_stage, audit_strays, audit_values
from jobs.console import Console
from jobs.public_files import public_problems
from jobs.stages import FOLDERS, STEPS, made_from, refusals


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Print what is proved. Raises ArtifactError for damage, IncompleteError when only shards are missing."""
    one = Run(config)
    cohort = one.stored
    problems, missing = [*audit_ids(cohort), *refusals(one, console.say)], 0
    after: list[str] = []
    for step in STEPS:
        shards = step.shards(config, cohort)
        audit = audit_stage(cohort.root, step.name, shards, step.input_hash)
        values = audit_values(cohort, audit, step.proves)
        found = [*audit.damaged.values(), *audit_strays(cohort, step.name), *values]
        problems += found
        after += _after(step.name, found)
        missing += len(audit.missing)
        rows = sum(s.rows for s in audit.done)
        console.say(f"{step.name:<12} {rows:,} visits in {len(audit.done)}/{len(shards)} shards, {len(found)} problems")
        for line in _mixed(audit):
            console.say(line)
    for folder in FOLDERS:
        state, wrong = _look(folder, folder.folder(one), cohort.task.names)
        missing += state == "missing"
        problems += wrong
        after += _after(folder.name, wrong)
        if not wrong:
            console.say(f"{folder.name:<12} {state}")
    problems += _metrics(one)
    problems += Checkpoints(one.root, {}, None).problems()
    problems += public_problems(one)
    for problem in problems:
        console.say(f"problem: {problem}")
    for line in after:
        console.say(f"then: {line}")
    if problems:
        raise ArtifactError(
            f"{cohort.root}: {len(problems)} problems (listed above); "
            "delete what they name and run the same command again"
        )
    if missing:
        raise IncompleteError(f"{cohort.root}: {missing} shards or folders are still missing; run 'ckd run' again")
    console.say("verify: every visit_id once per artifact, values in range")


def _after(name: str, wrong: Sequence[str]) -> Iterator[str]:
    """What has to be made again after a stage that is damaged. A reader refuses damage, so it may also be right."""
    later = [*made_from(name), "metrics.json", "report.html"]
    if wrong:
        yield f"{name}: what was made from it after the damage is wrong too, delete that as well: {', '.join(later)}"


def _mixed(audit: StageAudit) -> Iterator[str]:
    """A line per library of which a stage's parts were made with several versions: no damage, but values may differ."""
    for library, found in audit.made_with.items():
        if len(found) > 1:
            parts = " and ".join(f"{version} ({n} part{'s' * (n > 1)})" for version, n in sorted(found.items()))
            yield f"{audit.name}: made with {library} {parts}"


def _look(step: FolderStep, folder: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Whether a folder is missing, whole or damaged, and what is wrong with it."""
    artifact = FolderArtifact(folder, {})
    try:
        if artifact.load() is None:
            return "missing", []
        artifact.verify()
        if step.name == "student":
            Calibration.of_student(folder, names)
    except ArtifactError as error:
        return "damaged", [str(error)]
    return "whole", []


def _metrics(run: Run) -> list[str]:
    """What is wrong with metrics.json, where it is there."""
    try:
        read_json(run.metrics_file, "delete it and run 'ckd evaluate' again")
    except FileNotFoundError:
        return []
    except ArtifactError as error:
        return [str(error)]
    return []
