"""Job: hospital tables -> a cohort of next-visit pairs in Parquet parts, with its card and association table.
Partition, assemble, decide the splits, associate, render; every step does only what is missing, so that the same
command continues."""

import os
import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ckd.config import Config, TaskConfig
from ckd.ehr.card import ASSOCIATION_FILE, lines
from ckd.ehr.cohort_folder import require_ours, sweep, sweep_cut_off
from ckd.ehr.earlier import require_dates
from ckd.ehr.ingest import (
    Work,
    fingerprint,
)
from ckd.ehr.kinds import KINDS, may_read, open_source
from ckd.ehr.labeltables import TASK_FILE, task_of_tables
from ckd.ehr.now import (
    fields_of_now,
    lines_of_now,
    settings_of_now,
)
from ckd.ehr.outcomes import require_outcomes
from ckd.ehr.wording import Wording
from ckd.errors import ConfigError, DataError, IncompleteError, MismatchError
from ckd.store.artifacts import FolderArtifact
from ckd.store.copies import fetched_folder
from ckd.store.files import join
from ckd.store.filesystems import is_local
from ckd.store.jsonfile import read_json
from ckd.store.lease import lease
from ckd.visits.datafolder import CARD_FILE
from ckd.visits.labels import CCS25
from ckd.visits.task import Task
from ckd.visits.taskfile import load_task
from jobs.console import Console
from jobs.ingest_steps import IngestSteps


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd ingest`."""
    kinds = "; ".join(f"{name}: {text}" for name, text in KINDS.items())
    parser.add_argument("source", choices=KINDS, help=kinds)
    parser.add_argument("folder", metavar="DIR", help="folder of the tables")
    like = "patients as they are now, for ckd predict: each one's last stay, written as the texts of this cohort are"
    parser.add_argument("--like", metavar="COHORT", help=like)
    labels = (
        "a MEDS label table (subject_id, prediction_time, boolean_value), a label per file; may be given repeatedly"
    )
    parser.add_argument("--labels", metavar="FILE", action="append", default=[], help=labels)
    out = "the cohort: Parquet parts, card.json, association.csv"
    parser.add_argument("--out", required=True, metavar="DIR", help=out)


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Make the cohort --out from the tables in a folder, or say that it is there.

    Raises DataError for tables that cannot be used, ArtifactError when --out was made of other tables or settings.
    """
    kind, folder, out = arguments.source, arguments.folder, arguments.out
    wording = Wording.of(arguments.like) if arguments.like else None
    task, tables = CCS25 if wording else _task(config, arguments.labels), _on_this_machine(kind, folder, console)
    settings = settings_of_now(config.ingest, wording, arguments.like) if wording else config.ingest
    source = open_source(kind, tables, settings.split_column, settings.meds_codes, settings.subgroups)
    source = source.with_given(task, arguments.labels)
    require_outcomes(task, source)
    require_dates(settings.history, source)
    ingest = settings if wording else source.with_its_splits(settings)
    place = str(Path(out).absolute()) if is_local(out) else out  # a worker may run in another folder
    fields = fingerprint(ingest, config.seed, kind, source.content_hash, task)
    fields = fields_of_now(fields, wording) if wording else fields
    of_tables = bool(arguments.labels) and config.task == TaskConfig()
    work = Work(place, ingest, config.seed, fields, task, now=wording is not None, of_tables=of_tables)
    _require_writable(place, config)
    artifact = FolderArtifact(place, work.fields)
    with lease(place if is_local(place) else work.folder, "ckd ingest") as alone, _refusals(out, work):
        if artifact.is_done():
            artifact.verify()
            console.say(f"ingest: {out} is finished already, nothing to do")
        else:
            require_ours(work)
            if alone:
                sweep_cut_off(work)
            IngestSteps(console, source, work, folder, wording).run(artifact, wording)
        sweep(work, alone=alone)
    for line in (lines_of_now if wording else lines)(read_json(join(out, CARD_FILE), "run 'ckd ingest' again")):
        console.say(f"ingest: {line}")
    if wording:
        console.say(f"ingest: {out} can be scored: ckd predict {out} --model … ; the card is {join(out, CARD_FILE)}")
        return
    console.say(
        f"ingest: {out} is a cohort: ckd run data.train={out}{_chosen(config, work)}; "
        f"the card is {join(out, CARD_FILE)}, the associations {ASSOCIATION_FILE} beside it"
    )


def _task(config: Config, tables: Sequence[str]) -> Task:
    """The configured task; label tables alone are one."""
    return task_of_tables(tables) if tables and config.task == TaskConfig() else load_task(config.task)


def _chosen(config: Config, work: Work) -> str:
    """The task's keys as a run of the cohort needs them."""
    if work.of_tables:
        return f" task.labels={join(work.out, TASK_FILE)}"
    given = {f"task.{key}": value for key, value in config.task.model_dump(exclude_defaults=True).items()}
    return "".join(f" {key}={value}" for key, value in given.items())


def _on_this_machine(kind: str, folder: str, console: Console) -> str:
    """`folder`, or for a URL a local copy of its tables: polars scans real files."""
    if is_local(folder):
        return folder
    console.say(f"ingest: the tables of {folder} are copied to this machine, unless they are here already")
    copy = fetched_folder(folder, partial(may_read, kind))
    console.say(f"ingest: the copy is {copy}; delete it when you need it no more")
    return copy


def _require_writable(place: str, config: Config) -> None:
    if not is_local(place):
        if not place.partition("://")[2].strip("/").partition("/")[2]:
            raise ConfigError(f"--out {place}: expected a folder of its own, such as {place.rstrip('/')}/cohort")
        if not config.ingest.workers.in_process and os.environ.get("RAY_ADDRESS"):
            raise ConfigError(
                f"--out {place}: the tables are partitioned on this machine's disk, which the cluster's other "
                "machines do not see; set ingest.workers=0, or give a folder that all of them mount"
            )
        return
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ConfigError(
            f"--out {place}: cannot be written ({type(error).__name__}); give a folder where files can be"
        ) from None


@contextmanager
def _refusals(out: str, work: Work) -> Iterator[None]:
    """Says in a mismatch what this command offers instead.

    Refused tables or settings leave no work folder: it would be refused again when they are mended.
    """
    try:
        yield
    except DataError:
        shutil.rmtree(work.folder, ignore_errors=True)
        raise
    except FileNotFoundError:
        if Path(work.folder).exists():
            raise
        what = "was removed meanwhile, as another 'ckd ingest' does when it has finished"
        raise IncompleteError(f"{work.folder}: {what}; run the same command again") from None
    except MismatchError as error:
        found = str(error).rpartition("; restore it")[0]
        raise MismatchError(
            f"{found}; restore it, give another --out, or delete {out} to make the cohort anew"
        ) from None
