"""The steps of an ingest that run on one partition each, what they leave in the work folder, and how the results of all
partitions become one split rule and one association table. jobs/ingest_steps.py runs them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from ckd.ehr import association, text
from ckd.ehr.assemble import NAMED, Meaning, assemble, load_facts
from ckd.ehr.association_table import published
from ckd.ehr.codes import Codes
from ckd.ehr.frames import frame_files, left_join, load_frame, made_aside, save_frame
from ckd.ehr.pairs import LONG_AGO, Rules
from ckd.ehr.part import part_table, summary
from ckd.ehr.partition import facts
from ckd.ehr.subject_splits import SubjectSplits, decide
from ckd.ingest_config import IngestConfig
from ckd.store.artifacts import Fields, FolderArtifact, Stage
from ckd.store.files import digest, exists, join, read_bytes, size_and_hash, write_bytes
from ckd.store.filesystems import is_local
from ckd.store.folders import cache_folder
from ckd.visits.grammar import names_the_labels
from ckd.visits.labels import CCS25
from ckd.visits.parquetrows import mark
from ckd.visits.subgroups import mark_of
from ckd.visits.task import Task

COHORT_VERSION = 2  # raise it when the same tables give other rows
UNLESS_SET = ("history", "subgroups")  # what was made before the key came stays valid
FILES = ("code_map", "meds_codes")  # keys that name a file: its content decides
WORK = ".ckd-ingest-"  # then the fingerprint of the tables and settings: only this ingest has a folder of that name
Clauses = Mapping[str, Mapping[str, Sequence[str]]]  # table ("all" or a fold's number) -> disease -> drugs


@dataclass(frozen=True)
class Partition:
    """One independent part of the tables; `rows` are its admissions."""

    index: int
    rows: int


@dataclass(frozen=True)
class Work:
    """Where an ingest keeps what, and the settings that decide every value. Picklable: each worker holds one."""

    out: str
    config: IngestConfig
    seed: int
    fields: Fields  # fingerprint of the input and of these settings
    task: Task = CCS25
    of_tables: bool = False  # MEDS label tables alone say what the task is
    now: bool = False  # patients as they are now: each one's last stay, which may go on

    @property
    def subgroups(self) -> tuple[str, ...]:
        """The columns of the parts that are groups beside SUBGROUP_FIELDS."""
        return tuple(name.lower() for name in self.config.subgroups)

    @property
    def roles(self) -> tuple[str, ...]:
        """The visits that get into the parts."""
        return ("last",) if self.now else ("pair", "last")

    @property
    def folder(self) -> str:
        """A folder on this machine or a shared mount, since polars partitions there; removed at the end."""
        if is_local(self.out):
            return join(self.out, WORK + digest(dict(self.fields)))
        return str(cache_folder() / "ingest" / digest([self.out, dict(self.fields)]))

    @property
    def tables(self) -> str:
        """The partitioned tables."""
        return join(self.folder, "tables")

    def assembled(self, index: int) -> FolderArtifact:
        """The rows of one partition before splits and clauses."""
        return FolderArtifact(join(self.folder, f"assembled-{index:05d}"), self._scratch)

    def associated(self, index: int, splits: SubjectSplits) -> FolderArtifact:
        """The association statistics of one partition's train pairs."""
        fields = {**self._scratch, "splits": digest(dict(splits.ends))}
        return FolderArtifact(join(self.folder, f"associated-{index:05d}"), fields)

    @property
    def _scratch(self) -> Fields:
        """The settings and polars' version: its hash, by which the tables are partitioned, may change with it."""
        return {**self.fields, "polars": pl.__version__}

    def summary(self, index: int) -> str:
        """The file with what the card shows of one finished part, and the part's own size and SHA-256."""
        return join(self.folder, f"summary-{index:05d}.json")

    def written(self, index: int) -> dict[str, Any]:
        """The content of `summary`."""
        return dict(json.loads(read_bytes(self.summary(index))))

    def parts(self, splits: SubjectSplits, clauses: Clauses) -> Stage:
        """The finished parts, in `out` itself."""
        root, _, name = self.out.rstrip("/").rpartition("/")
        made_of = {"splits": digest(dict(splits.ends)), "association": digest(clauses)}
        stage = Stage(root or ".", name, {**self.fields, **made_of})
        stage.name = "cohort"  # not the folder's name: a cohort that is moved keeps its bytes
        return stage


def part_file(index: int) -> str:
    """The name of a finished part."""
    return f"part-{index:05d}.parquet"


def fingerprint(config: IngestConfig, seed: int, kind: str, content: str, task: Task = CCS25) -> Fields:
    """What decides a cohort's values: the input's content, all settings but the workers, the version of these rules."""
    not_deciding = {"workers", "max_unmapped"} | {key for key in UNLESS_SET if not getattr(config, key)}
    settings = config.model_dump(exclude=not_deciding).items()
    plain = {f"ingest.{k}": v if isinstance(v, str | int | float | bool) else json.dumps(v) for k, v in settings}
    files = {f"ingest.{key}": getattr(config, key) for key in FILES if getattr(config, key)}
    plain |= {key: hashlib.sha256(read_bytes(path)).hexdigest() for key, path in files.items()}
    plain |= {} if task.fingerprint == CCS25.fingerprint else {"task": task.fingerprint}
    return {"source": kind, "input": content, "seed": seed, "cohort_version": COHORT_VERSION, **plain}


def follow_up_end(work: Work) -> datetime:
    """Until when the source tells what happens: as configured, else the latest discharge in it."""
    last = work.config.follow_up_end or facts(work.tables)["last_time"]
    return datetime.fromisoformat(last) if last else LONG_AGO


class Assemble:
    """Tables of one partition -> its rows."""

    def __init__(self, work: Work, codes: Codes) -> None:
        self.work, config = work, work.config
        rules = Rules(config.coding_delay_days, config.newborns, follow_up_end(work), work.now)
        self.meaning = Meaning(rules, codes, config.sex_words, config.history, work.subgroups)

    def __call__(self, partition: Partition) -> dict[str, Any]:
        """Save the assembled partition."""
        work, index = self.work, partition.index
        made = assemble(work.tables, index, self.meaning, seed=work.seed, folds=work.config.folds)
        artifact = work.assembled(index)
        made.save(artifact.folder, artifact.fields)
        return asdict(partition)


class Associate:
    """Train pairs of one partition -> their association statistics."""

    def __init__(self, work: Work, splits: SubjectSplits) -> None:
        self.work, self.splits = work, splits

    def __call__(self, partition: Partition) -> dict[str, Any]:
        """Save the statistics."""
        source, target = self.work.assembled(partition.index).folder, self.work.associated(partition.index, self.splits)
        visits = _with_split(source, self.splits).filter((pl.col("split") == "train") & (pl.col("role") == "pair"))
        pairs = visits.select("visit", pl.col("subject_id").alias("subject"), "fold", "current", "next")
        stats = association.statistics(pairs, load_frame(source, "medications").rename({"name": "drug"}))
        with made_aside(target.folder) as fresh:
            for name in association.FRAMES:
                save_frame(fresh, name, getattr(stats, name))
            FolderArtifact(fresh, target.fields).commit(frame_files(association.FRAMES))
        return asdict(partition)


class Render:
    """Rows of one partition, with their split and clause -> the finished part."""

    def __init__(self, work: Work, splits: SubjectSplits, clauses: Clauses) -> None:
        self.work, self.splits, self.clauses = work, splits, clauses
        self.stage = work.parts(splits, clauses)

    def __call__(self, partition: Partition) -> dict[str, Any]:
        """Write the part, and after it what the card shows of it."""
        folder = self.work.assembled(partition.index).folder
        visits = _with_split(folder, self.splits)
        diseases, drugs, operations = (load_frame(folder, name) for name in NAMED)
        inputs = text.inputs(visits.height, diseases, drugs, operations, self._clause(visits))
        if self.work.config.history:
            told, earlier = load_frame(folder, "told")["text"], load_frame(folder, "earlier")
            inputs = text.with_earlier(inputs, told, earlier)
        task = self.work.task
        outcomes = None if names_the_labels(task) else load_frame(folder, "outcomes")
        kept = visits["role"].is_in(self.work.roles)
        visits, inputs = visits.filter(kept), inputs.filter(kept)
        outcomes = None if outcomes is None else outcomes.filter(kept)
        table = part_table(task, visits, inputs, outcomes, self.work.subgroups)
        marks = {**mark(task), **mark_of(self.work.subgroups)}
        self.stage.write(partition.index, table, rows=visits.height, input_hash="", mark=marks)
        sums = summary(task, visits, inputs, outcomes)
        written = {**sums, "file": size_and_hash(self.stage.path(partition.index))}
        write_bytes(self.work.summary(partition.index), json.dumps(written).encode())
        return asdict(partition)

    def _clause(self, visits: pl.DataFrame) -> pl.Series:
        """Each visit's clause: a train visit's from the table of the other folds' subjects, else from that of all."""
        table = pl.when(pl.col("split") == "train").then(pl.col("fold").cast(pl.String)).otherwise(pl.lit("all"))
        keyed = visits.select("visit", "current", table=table)
        found = [
            rows.select("visit", clause=text.clauses(rows["current"], self.clauses[str(key)]))
            for (key,), rows in keyed.partition_by("table", as_dict=True).items()
        ]
        return pl.concat(found).sort("visit")["clause"] if found else pl.Series("clause", [], pl.String)


def _with_split(folder: str, splits: SubjectSplits) -> pl.DataFrame:
    subjects = load_frame(folder, "subjects")
    subjects = subjects.select("subject_id", "fold", split=splits.of(subjects))
    return left_join(load_frame(folder, "visits"), subjects, "subject_id")


def decide_splits(work: Work, partitions: Sequence[Partition]) -> SubjectSplits:
    """One split rule from the subjects of all partitions."""
    return decide((load_frame(work.assembled(p.index).folder, "subjects") for p in partitions), work.config)


def merged_statistics(work: Work, partitions: Sequence[Partition], splits: SubjectSplits) -> association.Stats:
    """The association statistics of all train pairs."""
    folders = (work.associated(p.index, splits).folder for p in partitions)
    frames = ({name: load_frame(folder, name) for name in association.FRAMES} for folder in folders)
    return association.merge(association.Stats(**each) for each in frames)


def clauses_and_table(stats: association.Stats, work: Work) -> tuple[Clauses, pl.DataFrame]:
    """What the clauses name, per fold of the train subjects and for all others; and the table for people."""
    c = work.config
    support = {"min_support": c.min_support}
    made = association.tables(stats, method=c.treatment, top=c.top_drugs, folds=c.folds, seed=work.seed, **support)
    clauses = {"all": made.all_train, **{str(fold): table for fold, table in enumerate(made.by_fold)}}
    return clauses, published(stats, chosen=made.all_train, **support)


def unfinished(work: Work, partitions: Sequence[Partition], splits: SubjectSplits, clauses: Clauses) -> list[Partition]:
    """The partitions whose part is not there yet. Raises MismatchError when one was made with other settings."""
    stage, missing = work.parts(splits, clauses), []
    for partition in partitions:
        admissions = load_facts(work.assembled(partition.index).folder)["admissions"]
        done = stage.is_done(partition.index, rows=sum(admissions[role] for role in work.roles), input_hash="")
        # A part at a URL may be another machine's, where its summary stayed.
        if not done or not exists(work.summary(partition.index)):
            missing.append(partition)
    return missing


def merged_codes(work: Work, partitions: Sequence[Partition]) -> pl.DataFrame:
    """kind, code, version, rows, place: every distinct code of all partitions."""
    frames = [load_frame(work.assembled(p.index).folder, "codes") for p in partitions]
    return pl.concat(frames).group_by("kind", "code", "version").agg(pl.col("rows").sum(), pl.col("place").min())


def merged_facts(work: Work, partitions: Sequence[Partition]) -> dict[str, Any]:
    """The sums of what the partitions counted."""
    facts: dict[str, Any] = add([load_facts(work.assembled(p.index).folder) for p in partitions])
    return facts


def merged_summary(work: Work, partitions: Sequence[Partition]) -> dict[str, Any]:
    """The sums of `summary` over all finished parts."""
    written = [work.written(p.index) for p in partitions]
    sums: dict[str, Any] = add([{name: each[name] for name in ("splits", "lengths")} for each in written])
    return sums


def add(values: Sequence[Any]) -> Any:
    """Add up nested dicts and lists of numbers; `place` is the least: that of the first row of a kind."""
    if not values:
        return {}
    if isinstance(values[0], Mapping):
        names = dict.fromkeys(name for value in values for name in value)
        found = {name: [value[name] for value in values if name in value] for name in names}
        return {name: min(rest) if name == "place" else add(rest) for name, rest in found.items()}
    if isinstance(values[0], list):
        return [sum(column) for column in zip(*values, strict=True)]
    return sum(values)
