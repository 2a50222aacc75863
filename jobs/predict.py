"""Job: predict the visits of any input with a finished student. Continues where it stopped; a finished one says so."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path

from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError, MismatchError
from ckd.predict import arrivals
from ckd.predict.modelfolder import ModelFolder
from ckd.predict.scored import ScoreWorker, scored_fields
from ckd.store.artifacts import Stage
from ckd.store.files import sweep_temporary
from ckd.store.filesystems import is_local
from ckd.store.handover import sweep
from ckd.store.lease import lease
from ckd.visits.cohort import Cohort
from ckd.visits.inputs import Input
from ckd.visits.visit import Shard
from jobs.arguments import add_student
from jobs.console import Console
from jobs.ray_session import require_address, require_room
from jobs.shards import map_worker

STAGE = "predictions"


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd predict`."""
    source = "JSONL (.json, .jsonl, .gz), Parquet file, or a folder of Parquet parts; labels are not needed"
    parser.add_argument("input", metavar="INPUT", help=source)
    add_student(parser)
    out = "folder or URL; Parquet parts go to PREDS/predictions"
    parser.add_argument("--out", required=True, metavar="PREDS", help=out)
    meds = "also one MEDS-evaluation table per label in DIR"
    parser.add_argument("--meds", default="", metavar="DIR", help=meds)


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Predict INPUT with the student in --model into `<out>/predictions`, and MEDS tables into --meds.

    Raises ConfigError or ArtifactError for a model that cannot be used, DataError for such input, MismatchError when
    --out was made with another model or input, IncompleteError when shards failed, TakenError when another command
    writes to --out or --meds.
    """
    source, engine, meds = arguments.input, arguments.engine, arguments.meds
    folder, out = _absolute(arguments.model), _absolute(arguments.out)
    if not config.student.workers.in_process:
        require_address()
    model = ModelFolder.open(folder, engine)
    if engine != "torch" and config.student.gpus_per_worker:
        raise ConfigError(f"engine '{engine}' computes on the CPU; set student.gpus_per_worker=0")
    for note in model.notes:
        console.say(f"predict: {note}")
    arrived = Input(source, "held_out", model.task, to_learn=False)
    for line in arrived.lines():
        console.say(f"predict: {line}")
    with lease(out, "ckd predict") as alone:
        sweep_temporary(out)
        try:
            stage, cohort = _predicted(config, console, model, out, arrived)
        finally:
            if alone:  # else another may be reading the texts
                arrivals.forget(out)
    if meds:
        _meds(console, stage, cohort, _absolute(meds))


def _predicted(config: Config, console: Console, model: ModelFolder, out: str, arrived: Input) -> tuple[Stage, Cohort]:
    """The predictions of an input, made where they are missing, and its shards."""
    stage = Stage(out, STAGE, scored_fields(model), model.libraries)
    try:
        cohort = arrivals.receive(out, arrived, config.data)
        missing = _missing(stage, cohort)
    except MismatchError as error:
        raise MismatchError(
            f"{str(error).partition(';')[0]}; give another --out, or delete {out} to predict anew"
        ) from None
    _say_counts(console, cohort)
    if missing:
        require_room(config, "student")
        console.say(
            f"predict: {len(cohort.shards) - len(missing)} of {len(cohort.shards)} shards done, {len(missing)} to do"
        )
        arrivals.restore(out, arrived, config.data, cohort)
        _predict(config, console, stage, missing, model)
    else:
        console.say(f"predict: {stage.folder} is done")
    _check(console, stage, cohort)
    arrivals.forget(out)
    return stage, cohort


def _predict(config: Config, console: Console, stage: Stage, missing: list[Shard], model: ModelFolder) -> None:
    student = config.student
    root = stage.folder.rpartition("/")[0]
    worker = partial(
        ScoreWorker, root=root, stage=stage, folder=model.folder, engine=model.engine, gpus=student.gpus_per_worker
    )
    rows = map_worker(
        console,
        "predict",
        worker,
        missing,
        workers=student.workers,
        gpus_per_worker=student.gpus_per_worker,
    )
    truncated, visits = sum(row["truncated"] for row in rows), sum(row["rows"] for row in rows)
    if truncated:
        console.say(
            f"predict: {truncated:,} of {visits:,} visits are longer than the {model.max_length} tokens that this "
            "student reads and lost text from their end"
        )


def _missing(stage: Stage, cohort: Cohort) -> list[Shard]:
    known = {shard.index for shard in cohort.shards}
    for index in stage.indices():
        if index not in known:
            raise ArtifactError(
                f"{stage.path(index)}: belongs to no shard of this input; delete it, or give another --out"
            )
    return [s for s in cohort.shards if not stage.is_done(s.index, rows=s.rows, input_hash=s.content_hash)]


def _say_counts(console: Console, cohort: Cohort) -> None:
    counts = arrivals.counted(cohort)
    for reason, count in sorted(counts.reasons.items()):
        console.say(f"predict: quarantined {count:,}: {reason} (first: {counts.first[reason]})")


def _check(console: Console, stage: Stage, cohort: Cohort) -> None:
    """Compare the parts' footers with what was read: no visit is lost, none is there twice."""
    counts = arrivals.counted(cohort)
    footers = [stage.footer(index) for index in stage.indices()]
    predicted = sum(footer.rows for footer in footers if footer)
    if counts.read != predicted + counts.quarantined:
        raise ArtifactError(
            f"{stage.folder}: read {counts.read:,} visits, but {predicted:,} are predicted and "
            f"{counts.quarantined:,} quarantined; run the same command again"
        )
    console.say(
        f"predict: read {counts.read:,} = predicted {predicted:,} + quarantined {counts.quarantined:,}, "
        f"in {stage.folder}"
    )
    console.event("predict_done", read=counts.read, predicted=predicted, quarantined=counts.quarantined, **stage.fields)


def _meds(console: Console, stage: Stage, cohort: Cohort, folder: str) -> None:
    from ckd.predict.meds import write_tables

    with lease(folder, "ckd predict --meds") as alone:
        if alone:
            sweep(folder)
        facts = write_tables(folder, stage, cohort)
    if facts is None:
        console.say(f"predict: {folder} is done")
        return
    for reason, visits in facts["left_out"].items():
        console.say(f"predict: {visits:,} visits left out of the MEDS tables: {reason}")
    console.say(f"predict: wrote a MEDS table of {facts['visits']:,} visits per label to {folder}")


def _absolute(path: str) -> str:
    """The path for a worker, which may run in another folder than the command."""
    return str(Path(path).absolute()) if is_local(path) else path.rstrip("/")
