"""What a stage of a run is, declared once: run, status, verify, dry run, refusals and report read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ckd.config import Config
from ckd.errors import ArtifactError
from ckd.run import Run
from ckd.store.artifacts import Fields, FolderArtifact, Stage
from ckd.visits.cohort import STAGE as VISITS_NAME
from ckd.visits.cohort import Cohort
from ckd.visits.visit import Shard

if TYPE_CHECKING:
    import pyarrow as pa

Check = Callable[["pa.ChunkedArray"], str]  # a column -> what is wrong with it; "" when nothing is


@dataclass(frozen=True)
class Step:
    """A stage of parts, one per visits shard."""

    name: str  # of its folder below the run's root
    command: str  # that makes it
    label: str  # of its progress lines and events
    title: str  # what a reader calls making it; "" where a report shows no speed
    fingerprint: Callable[[Run], Fields]  # everything that changes its values and nothing that does not
    shards: Callable[[Config, Cohort], list[Shard]]  # that it should have
    worker: Callable[..., Callable[[Shard], dict[str, Any]]] | None = None  # worker(run) computes a shard per call
    proves: Mapping[str, Check] = field(default_factory=dict)  # column -> what verify proves of its values
    input_hash: Callable[[Shard], str] = attrgetter("text_hash")  # the hash of what a part is made from
    needs: Sequence[str] = ("visits",)  # the stages that it is made from
    libraries: Callable[[Config], Sequence[str]] = (
        lambda _: ()
    )  # that compute its values: a part records their versions

    def stage(self, run: Run) -> Stage:
        """The stored parts, with this run's fingerprint."""
        fields = run.once(self.name, lambda: self.fingerprint(run))
        return Stage(run.root, self.name, fields, self.libraries(run.config))

    def missing(self, run: Run, shards: Sequence[Shard] | None = None) -> list[Shard]:
        """Those of the given shards (None: all) that are still to do.

        Raises MismatchError naming the field when a part was made otherwise.
        """
        wanted = self.shards(run.config, run.cohort) if shards is None else shards
        return self.stage(run).missing(wanted, self.input_hash)

    def require(self, run: Run, shards: Sequence[Shard] | None = None) -> Stage:
        """The stored parts of those shards (None: all).

        Raises ArtifactError naming the command that makes them when one is missing.
        """
        wanted = self.shards(run.config, run.cohort) if shards is None else shards
        stage = self.stage(run)
        stage.require(wanted, self.command, self.input_hash)
        return stage

    def compare(self, run: Run) -> None:
        """Compare one part that is there with this run's fingerprint: all parts share theirs, which verify proves.

        Raises MismatchError naming the field that differs.
        """
        stage = self.stage(run)
        there = set(stage.indices())
        first = [shard for shard in self.shards(run.config, run.stored) if shard.index in there][:1]
        stage.missing(first, self.input_hash)


@dataclass(frozen=True)
class FolderStep:
    """A stage whose result is one folder: the head, the student."""

    name: str
    command: str  # that makes it
    fingerprint: Callable[[Run], Fields]
    folder: Callable[[Run], str]
    libraries: Sequence[str] = ()  # as of a Step
    needs: Sequence[str] = ()  # as of a Step

    def artifact(self, run: Run) -> FolderArtifact:
        """The folder, with this run's fingerprint."""
        fields = run.once(self.name, lambda: self.fingerprint(run))
        return FolderArtifact(self.folder(run), fields, self.libraries)

    def require(self, run: Run) -> FolderArtifact:
        """The finished folder.

        Raises ArtifactError when it is not there, MismatchError naming the field when it is another configuration's.
        """
        artifact = self.artifact(run)
        if not artifact.is_done():
            raise ArtifactError(f"{artifact.folder}: no {self.name} has been trained there; run '{self.command}' first")
        return artifact

    def compare(self, run: Run) -> None:
        """Raise as `require` when the finished folder is not this run's."""
        self.require(run)


VISITS = Step(
    name=VISITS_NAME,
    command="ckd embed",
    label="visits",
    title="",
    fingerprint=lambda run: run.visits_fields,
    shards=lambda _, cohort: list(cohort.shards),
    input_hash=attrgetter("content_hash"),
    needs=(),
)
