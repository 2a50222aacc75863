"""Job: hospital tables -> a cohort of next-visit pairs in Parquet parts, with its card and association table.
Partition, assemble, decide the splits, associate, render; every step does only what is missing, so that the same
command continues."""

import os
import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ckd.config import Config, TaskConfig
from ckd.ehr.card import ASSOCIATION_FILE, cohort_card, counted, counted_lines, lines, require_all_rows
from ckd.ehr.causes import no_labels, no_pairs, require_rows_that_meet
from ckd.ehr.cellcounts import unread_cells
from ckd.ehr.codemap import read_code_map
from ckd.ehr.codes import Codes, refuse_damaged
from ckd.ehr.cohort_folder import require_ours, sweep, sweep_cut_off, whole_cohort
from ckd.ehr.earlier import require_dates
from ckd.ehr.ingest import (
    Assemble,
    Associate,
    Partition,
    Render,
    Work,
    clauses_and_table,
    decide_splits,
    fingerprint,
    follow_up_end,
    merged_codes,
    merged_facts,
    merged_statistics,
    merged_summary,
    unfinished,
)
from ckd.ehr.kinds import KINDS, may_read, open_source
from ckd.ehr.labeltables import TASK_FILE, task_of_tables, task_text
from ckd.ehr.now import (
    card_of_now,
    fields_of_now,
    lines_of_now,
    require_patients,
    settings_of_now,
    splits_and_clauses,
)
from ckd.ehr.outcomes import require_outcomes
from ckd.ehr.partition import facts, partition
from ckd.ehr.sex import require_one_meaning
from ckd.ehr.source import Source
from ckd.ehr.subject_splits import SubjectSplits
from ckd.ehr.unmapped import require_mapped, unmapped_codes
from ckd.ehr.wording import Wording, used_titles
from ckd.errors import ConfigError, DataError, IncompleteError, MismatchError
from ckd.store.artifacts import FolderArtifact
from ckd.store.copies import fetched_folder
from ckd.store.files import join, write_bytes, write_file
from ckd.store.filesystems import is_local
from ckd.store.jsonfile import read_json, sealed, write_json
from ckd.store.lease import lease
from ckd.visits.datafolder import CARD_FILE
from ckd.visits.grammar import names_the_labels
from ckd.visits.labels import CCS25
from ckd.visits.task import Task
from ckd.visits.taskfile import load_task
from jobs.console import Console
from jobs.shards import map_worker

ASSOCIATION_READING = (
    "How often a disease that is present now is absent at the next visit, with the drug against without it. "
    "An association among patients who return, confounded by why a drug is given; not efficacy."
)


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
    source = open_source(kind, tables, settings.split_column, settings.meds_codes)
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
            _Ingest(console, source, work, folder, wording).run(artifact, wording)
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


class _Ingest:
    """The steps of one unfinished cohort."""

    def __init__(self, console: Console, source: Source, work: Work, given: str, wording: Wording | None) -> None:
        self.console, self.source, self.work, self.given = console, source, work, given
        self.titles, self.code_map = source.titles(), read_code_map(work.config.code_map, work.task)
        if wording is not None:
            self.titles, self.code_map = wording.all_titles(self.titles), {**self.code_map, **wording.code_map}
        self.codes = Codes(self.titles, work.task, self.code_map)
        self.partitions: Sequence[Partition] = ()

    def run(self, artifact: FolderArtifact, wording: Wording | None = None) -> None:
        """Do what is missing, step after step; `artifact` is committed last. With `wording` only the last stays."""
        work = self.work
        self.partitions = self._partition()
        self._map(
            "assemble",
            Assemble,
            [p for p in self.partitions if not work.assembled(p.index).is_done()],
            codes=self.codes,
        )
        codes = merged_codes(work, self.partitions)
        refuse_damaged(codes, self._locate)
        found = merged_facts(work, self.partitions)
        unmapped = unmapped_codes(codes, self.codes, found["unmapped"], self._locate)
        require_mapped(unmapped, work.config.max_unmapped)
        known = self._counted(found)
        if wording is not None:
            self._write_now(artifact, wording, card_of_now(self.source.description, work, known, found))
            return
        splits = decide_splits(work, self.partitions)
        self._map(
            "associate",
            Associate,
            [p for p in self.partitions if not work.associated(p.index, splits).is_done()],
            splits=splits,
        )
        stats = merged_statistics(work, self.partitions, splits)
        clauses, table = clauses_and_table(stats, work)
        self._map("render", Render, unfinished(work, self.partitions, splits, clauses), splits=splits, clauses=clauses)
        card = self._card(found, known, splits, unmapped)
        write_json(join(work.out, CARD_FILE), sealed(card), ensure_ascii=False)
        write_file(join(work.out, ASSOCIATION_FILE), table.write_csv)
        if work.of_tables:
            write_bytes(join(work.out, TASK_FILE), task_text(work.task).encode())
        titles = used_titles(self.titles, codes)
        Wording(clauses["all"], titles, self.code_map, work.config.history).save(work.out)
        artifact.commit(whole_cohort(work, self.partitions, splits, clauses))

    def _write_now(self, artifact: FolderArtifact, wording: Wording, card: Mapping[str, Any]) -> None:
        work, (splits, clauses) = self.work, splits_and_clauses(self.work, wording)
        self._map("render", Render, unfinished(work, self.partitions, splits, clauses), splits=splits, clauses=clauses)
        write_json(join(work.out, CARD_FILE), sealed(card), ensure_ascii=False)
        wording.save(work.out)
        artifact.commit(whole_cohort(work, self.partitions, splits, clauses))

    def _partition(self) -> Sequence[Partition]:
        files = self.source.files
        size = sum(files.values()) / 1e6
        self.console.say(f"ingest: {len(files)} files, {size:,.0f} MB, are partitioned by patient")
        return [
            Partition(index, rows)
            for index, rows in enumerate(partition(self.source, self.work.tables, self.work.config.partitions))
        ]

    def _map(self, step: str, factory: Any, partitions: Sequence[Partition], **kwargs: Any) -> None:
        map_worker(
            self.console,
            f"ingest, {step}",
            partial(factory, work=self.work, **kwargs),
            partitions,
            workers=self.work.config.workers,
        )

    def _locate(self, table: str, place: int) -> str:
        """`file:line` of a row; of tables at a URL there, not in their copy."""
        return self._named(self.source.locate(table, place))

    def _named(self, path: str) -> str:
        """A path below the tables, of tables at a URL there."""
        return path if is_local(self.given) else join(self.given, path.removeprefix(self.source.folder).lstrip("/"))

    def _counted(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """What became of every admission, row and cell. Raises DataError or ConfigError when that can be no cohort."""
        tables = facts(self.work.tables)["tables"]
        require_all_rows(found, tables)
        require_one_meaning([sexes["words"] for sexes in found["sex"].values()], self.work.config.sex_words)
        known = counted(found, unread_cells(self.source, tables, self._locate), self.source.passed_over, self._locate)
        files = {table: self._named(self.source.files_of(table)) for table in tables}
        try:
            require_rows_that_meet(known, files, found["patients"])
            if self.work.now:
                require_patients(found, self.given)
            elif not found["labeled"] and known["admissions"]["pairs"]:
                raise no_labels(known, self.work.task.name)
            elif not found["labeled"]:
                raise no_pairs(known, files, self.source.wanted("diagnoses"))
        except DataError:
            for line in [*counted_lines(known), *self.source.description.get("notes", ())]:
                self.console.say(f"ingest: {line}")
            raise
        return known

    def _card(
        self, found: Mapping[str, Any], known: Mapping[str, Any], splits: SubjectSplits, unmapped: Mapping[str, Any]
    ) -> dict[str, Any]:
        work = self.work
        summary = merged_summary(work, self.partitions)
        card = cohort_card(self.source.description, work.fields, known, found, summary, work.task)
        method = work.config.treatment
        return {
            **card,
            **({} if names_the_labels(work.task) else {"follow_up_end": follow_up_end(work).isoformat()}),
            "moved_subjects": splits.moved,
            "unnamed_subjects": splits.unnamed,
            "split_ends": dict(splits.ends),
            "treatment_association": {"method": method, "file": ASSOCIATION_FILE, "reading": ASSOCIATION_READING},
            "unmapped_codes": unmapped,
        }
