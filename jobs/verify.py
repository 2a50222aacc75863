"""Job: prove that the visits are those that were prepared, that every visit_id stands once in every artifact's parts, in the order of its
visits, that embeddings, logits, probabilities and token ids are finite and in range, that the files of head and student are those that were
committed, and that calibration.json, where it is, is that student's. Whether a model really computed those values is not provable from them."""

import sys

from ckd.calibration import Calibration
from ckd.config import Config
from ckd.errors import ArtifactError, IncompleteError
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import join
from ckd.visits.audit import audit_ids, audit_stage, audit_strays, audit_values
from ckd.visits.cohort import Cohort
from jobs.cli import main
from jobs.console import Console
from jobs.stages import refusals, wanted_shards


def run(config: Config, console: Console) -> None:
    """Raises ArtifactError when something is damaged, IncompleteError when only shards are missing."""
    cohort = Cohort.open(config.run.artifacts_root)
    problems, missing = [*audit_ids(cohort), *refusals(config, cohort, console.say)], 0
    for name, shards in wanted_shards(config, cohort).items():
        audit = audit_stage(cohort.root, name, shards)
        found = [*audit.damaged.values(), *audit_strays(cohort, name), *audit_values(cohort, audit)]
        problems += found
        missing += len(audit.missing)
        rows = sum(s.rows for s in audit.done)
        console.say(f"{name:<12} {rows:,} visits in {len(audit.done)}/{len(shards)} shards, {len(found)} problems")
    for name, folder in (("head", join(cohort.root, "head")), ("student", join(config.run.folder, "student"))):
        artifact = FolderArtifact(folder, {})
        if artifact.load() is None:
            missing += 1
            console.say(f"{name:<12} missing")
            continue
        try:
            artifact.verify()
            if name == "student":
                Calibration.of_student(folder)
            console.say(f"{name:<12} whole")
        except ArtifactError as error:
            problems.append(str(error))
    for problem in problems:
        console.say(f"problem: {problem}")
    if problems:
        raise ArtifactError(
            f"{cohort.root}: {len(problems)} problems (listed above); delete what they name and run the same command again"
        )
    if missing:
        raise IncompleteError(f"{cohort.root}: {missing} shards or folders are still missing; run 'ckd run' again")
    console.say("verify: every visit_id once per artifact, values in range")


if __name__ == "__main__":
    raise SystemExit(main(["verify", *sys.argv[1:]]))
