"""The steps of an ingest in their order: each does only what is missing, so that the same command continues."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ckd.ehr.card import ASSOCIATION_FILE, cohort_card, counted, counted_lines, require_all_rows
from ckd.ehr.causes import no_labels, no_pairs, require_rows_that_meet
from ckd.ehr.cellcounts import unread_cells
from ckd.ehr.codemap import read_code_map
from ckd.ehr.codes import Codes, refuse_damaged
from ckd.ehr.cohort_folder import whole_cohort
from ckd.ehr.groups import require_of_groups
from ckd.ehr.ingest import (
    Assemble,
    Associate,
    Partition,
    Render,
    Work,
    clauses_and_table,
    decide_splits,
    follow_up_end,
    merged_codes,
    merged_facts,
    merged_statistics,
    merged_summary,
    unfinished,
)
from ckd.ehr.labeltables import TASK_FILE, task_text
from ckd.ehr.now import (
    card_of_now,
    require_patients,
    splits_and_clauses,
)
from ckd.ehr.partition import facts, partition
from ckd.ehr.sex import require_one_meaning
from ckd.ehr.source import Source
from ckd.ehr.subject_splits import SubjectSplits
from ckd.ehr.unmapped import require_mapped, unmapped_codes
from ckd.ehr.wording import Wording, used_titles
from ckd.errors import DataError
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import join, write_bytes, write_file
from ckd.store.filesystems import is_local
from ckd.store.jsonfile import sealed, write_json
from ckd.visits.datafolder import CARD_FILE
from ckd.visits.grammar import names_the_labels
from jobs.console import Console
from jobs.shards import map_worker

ASSOCIATION_READING = (
    "How often a disease that is present now is absent at the next visit, with the drug against without it. "
    "An association among patients who return, confounded by why a drug is given; not efficacy."
)


class IngestSteps:
    """The steps of one unfinished cohort."""

    def __init__(self, console: Console, source: Source, work: Work, given: str, wording: Wording | None) -> None:
        self.code_map = {**read_code_map(work.config.code_map, work.task), **(wording.code_map if wording else {})}
        self.console, self.source, self.work, self.given = console, source.knowing(self.code_map), work, given
        self.titles = self.source.titles()
        if wording is not None:
            self.titles = wording.all_titles(self.titles)
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
        require_of_groups(found.get("groups", {}), self.given)
        known = counted(found, unread_cells(self.source, tables, self._locate), self.source.passed_over, self._locate)
        files = {table: self._named(self.source.files_of(table)) for table in tables}
        try:
            require_rows_that_meet(known, files, found["patients"])
            if self.work.now:
                require_patients(found, self.given)
            elif not found["labeled"] and known["admissions"]["pairs"]:
                raise no_labels(known, self.work.task.name)
            elif not found["labeled"]:
                raise no_pairs(known, files, self.source.wanted("diagnoses"), self.source.remedies)
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
