"""The stored visits of a run (stage `visits`): shards of one split each, and the artifact.json that lists them."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any

from ckd.errors import ArtifactError
from ckd.store.artifacts import Fields, FolderArtifact, Stage
from ckd.store.files import join
from ckd.visits.labels import CCS25
from ckd.visits.parquetrows import mark
from ckd.visits.subgroups import mark_of
from ckd.visits.task import Task
from ckd.visits.visit import Shard, Split, Visit, to_table

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "visits"
_VISIT_FIELDS = tuple(field.name for field in fields_of(Visit))


@dataclass(frozen=True)
class Cohort:
    """The committed stage `visits` below an artifacts root."""

    root: str
    shards: tuple[Shard, ...]
    identity: str  # hash over all shards' content: a fingerprint field of what is made from labels or splits
    facts: Mapping[str, Any]  # what prepare counted: read, kept, quarantined, grouped_by, teacher_saw_held_out, …
    task: Task = CCS25  # what its labels are
    subgroups: tuple[str, ...] = ()  # columns of groups beside SUBGROUP_FIELDS

    @classmethod
    def open(cls, root: str) -> "Cohort":
        """Open the stage; raises ArtifactError when it has not been prepared."""
        artifact = cohort_artifact(root, {})
        content = artifact.load()
        if content is None:
            why = "no visits have been prepared there"
            raise ArtifactError(f"{artifact.folder}: {why}; run 'ckd embed' or 'ckd run' first")
        try:
            shards = tuple(Shard(**row) for row in content["extra"]["shards"])
            task = Task.model_validate(content["extra"]["task"]) if "task" in content["extra"] else CCS25
            facts, groups = dict(content["extra"]["facts"]), tuple(content["extra"].get("subgroups", ()))
            return cls(root, shards, _identity(shards, task), facts, task, groups)
        except (LookupError, TypeError, ValueError, AttributeError):
            remedy = f"delete {Stage(root, STAGE, {}).folder} and run the same command again"
            raise ArtifactError(f"{artifact.folder}: its artifact.json lists no shards of visits; {remedy}") from None

    def select(self, *splits: Split, labeled: bool | None = True) -> list[Shard]:
        """Shards of the named splits (none named: all); `labeled=None` takes unlabeled ones too."""
        chosen = [shard for shard in self.shards if not splits or shard.split in splits]
        return [shard for shard in chosen if labeled is None or shard.labeled == labeled]

    def count(self, *splits: Split, labeled: bool | None = True) -> int:
        """Number of visits in those shards."""
        return sum(s.rows for s in self.select(*splits, labeled=labeled))

    def read(self, shard: Shard, columns: Sequence[str] | None = None) -> "pa.Table":
        """The rows of one shard, in their order. Raises ArtifactError when they are not those of the plan."""
        return Stage(self.root, STAGE, {}).read(shard.index, columns, input_hash=shard.content_hash)

    def is_whole(self) -> bool:
        """Whether every shard has its part; some may have been lost since artifact.json was written."""
        return {shard.index for shard in self.shards} <= set(Stage(self.root, STAGE, {}).indices())


def cohort_artifact(root: str, fields: Fields) -> FolderArtifact:
    """The folder whose artifact.json says that the stage is whole. Readers of the parts pass over names with "_"."""
    return FolderArtifact(join(root, STAGE, "_cohort"), fields)


def quarantine_file(root: str) -> str:
    """Where the rows that cannot be used are listed: JSONL of location (file:line) and reason."""
    return join(cohort_artifact(root, {}).folder, "quarantine.jsonl")


def commit(
    root: str,
    visits: Iterable[Visit],
    *,
    fields: Fields,
    shard_rows: int,
    facts: Mapping[str, Any],
    task: Task = CCS25,
    subgroups: tuple[str, ...] = (),
) -> Cohort:
    """Write visits into shards of one split each, in input order, then artifact.json. Safe to run twice.

    `facts` is read after the last visit, so the caller may fill it while `visits` is consumed. At most `shard_rows`
    visits per split, labelled or not, are in memory. Parts of an earlier, longer attempt are removed.
    """
    stage = Stage(root, STAGE, fields)
    shards: list[Shard] = []
    waiting: dict[tuple[Split, bool], list[Visit]] = defaultdict(list)
    marks = {**mark(task), **mark_of(subgroups)}

    def flush(key: tuple[Split, bool]) -> None:
        rows = waiting.pop(key)
        shard = describe(len(shards), rows)
        table = to_table(rows, len(task), subgroups)
        stage.write(shard.index, table, rows=shard.rows, input_hash=shard.content_hash, mark=marks)
        shards.append(shard)

    for visit in visits:
        if visit.split is None:
            raise ValueError(f"visit {visit.visit_id} has no split")
        key = (visit.split, visit.labels is not None)
        waiting[key].append(visit)
        if len(waiting[key]) == shard_rows:
            flush(key)
    for key in sorted(waiting):
        flush(key)
    for index in stage.indices():
        if index >= len(shards):
            stage.delete(index)
    extra = {"shards": [asdict(s) for s in shards], "facts": dict(facts)}
    extra |= {} if task.fingerprint == CCS25.fingerprint else {"task": task.stored}
    extra |= {"subgroups": list(subgroups)} if subgroups else {}
    cohort_artifact(root, fields).commit([], extra)
    return Cohort(root, tuple(shards), _identity(shards, task), dict(facts), task, subgroups)


def describe(index: int, visits: Sequence[Visit]) -> Shard:
    """The plan's row for the visits of part `index`: at least one, all of one split, all labelled or all not."""
    first = visits[0]
    if first.split is None:
        raise ValueError(f"visit {first.visit_id} has no split")
    return Shard(index, len(visits), first.split, first.labels is not None, text_hash(visits), _content_hash(visits))


def text_hash(visits: Iterable[Visit]) -> str:
    """Hash of what the teacher reads of a shard: visit_id, instruction, input, in order."""
    return _hash([v.visit_id, v.instruction, v.input] for v in visits)


def _content_hash(visits: Iterable[Visit]) -> str:
    # dataclasses.asdict would copy deeply, which took half of prepare's time.
    return _hash([getattr(v, name) for name in _VISIT_FIELDS] for v in visits)


def _identity(shards: Iterable[Shard], task: Task) -> str:
    rows: list[list[Any]] = [[s.split, s.labeled, s.content_hash] for s in shards]
    return _hash(rows if task.identity == CCS25.identity else [[task.identity], *rows])


def _hash(rows: Iterable[list[Any]]) -> str:
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps(row).encode())
        sha.update(b"\n")
    return sha.hexdigest()[:16]
