"""Job: show which shards of every stage are done and which are missing. Reads only footers and starts nothing."""

from argparse import Namespace
from collections.abc import Callable, Iterator

from ckd.config import Config
from ckd.errors import UnreachableError
from ckd.run import Run
from ckd.stage import Step
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import exists
from ckd.store.models import require_adapter, require_there
from ckd.teacher.embed import EMBEDDINGS
from ckd.visits.audit import audit_stage
from ckd.visits.cohort import cohort_artifact
from ckd.visits.visit import SPLITS
from jobs.console import Console
from jobs.stages import FOLDERS, STEPS, refusals


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Print the plan. Raises as `require_all`."""
    for line in plan(config):
        console.say(line)
    require_all(config, console.say)


def require_all(config: Config, say: Callable[[str], None]) -> None:
    """Raise ConfigError or DataError for an input or a model that the run has still to read and that is not there.

    What a hub or a storage that does not answer may have goes to `say`. Reads no weights.
    """
    one = Run(config)
    stored = cohort_artifact(one.root, {}).load() is not None
    if not (one.inputs or stored):
        return
    wanted = []
    if not stored or _missing(one, EMBEDDINGS):
        wanted.append((require_there, "teacher.base_model", config.teacher.base_model))
        if config.teacher.adapter:
            wanted.append((require_adapter, "teacher.adapter", config.teacher.adapter))
    if FolderArtifact(one.student_folder, {}).load() is None:
        wanted.append((require_there, "student.base_model", config.student.base_model))
    for look, key, name in wanted:
        try:
            look(key, name)
        except UnreachableError as error:
            say(f"not looked at  {error}")


def _missing(run: Run, step: Step) -> list[int]:
    return audit_stage(run.root, step.name, step.shards(run.config, run.stored), step.input_hash).missing


def plan(config: Config) -> Iterator[str]:
    """One line per stage: done, missing; and what will run it."""
    one = Run(config)
    yield f"artifacts    {one.root}"
    if cohort_artifact(one.root, {}).load() is None:
        inputs = [path for path in (config.data.train, config.data.tuning, config.data.held_out) if path]
        read = ", ".join(inputs) or "nothing: data.train is empty"
        yield f"visits       to do: read {read}; the shards of the later stages follow from it"
    else:
        yield from _parts(one)
    for folder in FOLDERS:
        yield f"{folder.name:<12} {_folder(folder.folder(one))}"
    yield f"{'metrics':<12} {'done' if exists(one.metrics_file) else 'missing'}"
    yield f"devices      teacher: {_devices(str(config.teacher.workers), config.teacher.gpus_per_worker)}"
    yield f"             student: {_devices(str(config.student.workers), config.student.gpus_per_worker)}"


def _parts(run: Run) -> Iterator[str]:
    cohort = run.stored
    counts = ", ".join(f"{split} {cohort.count(split):,}" for split in SPLITS)
    yield f"{'':<12} {counts} visits, {cohort.count(labeled=False):,} unlabeled"
    for step in STEPS:
        shards = step.shards(run.config, cohort)
        audit = audit_stage(run.root, step.name, shards, step.input_hash)
        missing = f"missing {_ranges(audit.missing)}" if audit.missing else "done"
        damaged = f", {len(audit.damaged)} damaged (ckd verify)" if audit.damaged else ""
        yield f"{step.name:<12} {len(audit.done)}/{len(shards)} shards, {missing}{damaged}"
    unknown: list[str] = []
    refused = refusals(run, unknown.append)
    yield from unknown
    yield from (f"{'refused':<12} {line}" for line in refused)


def _folder(path: str) -> str:
    return "missing" if FolderArtifact(path, {}).load() is None else "done"


def _devices(workers: str, gpus: float) -> str:
    if workers == "0":
        return "this process" + (", 1 GPU" if gpus else ", CPU")
    return f"{workers} Ray workers, {f'{gpus:g} GPU' if gpus else '1 CPU'} each"


def _ranges(indices: list[int]) -> str:
    """1,2,3,7 -> 1-3 7"""
    runs: list[list[int]] = []
    for i in indices:
        if runs and runs[-1][-1] == i - 1:
            runs[-1][1:] = [i]
        else:
            runs.append([i])
    return " ".join("-".join(map(str, run)) for run in runs)
