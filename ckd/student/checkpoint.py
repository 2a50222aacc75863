"""The student's checkpoints, `<artifacts>/checkpoints/step-0000200/`: folder artifacts at a path or URL."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckd.errors import ArtifactError
from ckd.store.artifacts import Fields, FolderArtifact, require_equal
from ckd.store.copies import fetched_folder
from ckd.store.files import exists, join, make_folder, size_and_hash
from ckd.store.filesystems import is_local
from ckd.store.folders import ARTIFACT_FILE, cache_folder, delete_folder, list_folders, upload_folder
from ckd.store.unwritable import writing

CHECKPOINTS = "checkpoints"  # their folder below the artifacts root
LAYOUT = ("student.workers", "student.zero_stage", "dtype")
KEEP = 2  # newest checkpoints that stay, beside the best
Listing = Mapping[str, Mapping[str, Any]]  # name below the checkpoint's folder -> its size and sha256


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the state after `step` optimizer steps, and what the run knew then. `folder` may be a URL."""

    step: int
    folder: str
    extra: dict[str, Any]

    @property
    def world(self) -> int:
        """The number of ranks that wrote it."""
        return int(self.extra["world"])

    def fetched(self, everything: bool = True) -> str:
        """A local folder with its files, checked while they are copied; without `everything` only the weights."""
        return fetched_folder(self.folder, lambda name: everything or "/" not in name)


class Checkpoints:
    """The checkpoints of one student below an artifacts root.

    `fields` hold what decides the values. `layout` (its names are LAYOUT) says how the files are cut, which training
    must not change either; None: only to be read, whatever the layout. The number of ranks may change: see `extra`.
    """

    def __init__(self, root: str, fields: Fields, layout: Fields | None) -> None:
        self.root = join(root, CHECKPOINTS)
        self.fields = {**fields, **(layout or {})}
        self.ignored = LAYOUT if layout is None else ()

    def folder(self, step: int) -> str:
        """The folder of a step's checkpoint."""
        return join(self.root, f"step-{step:07d}")

    def clear(self, step: int) -> None:
        """Remove the folder of a new checkpoint, its footer first, so that a kill leaves nothing that looks whole."""
        delete_folder(self.folder(step))

    @contextmanager
    def staging(self, step: int) -> Iterator[str]:
        """An empty local folder for one rank's files, removed afterwards; on the checkpoint's disk if that is local.

        Raises IncompleteError where the file system refuses, whatever library was writing.
        """
        above = Path(self.folder(step)) if is_local(self.root) else cache_folder() / "staging"
        with writing(str(above)):
            make_folder(above)
            folder = tempfile.mkdtemp(prefix=".rank-", dir=above)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def add(self, step: int, staged: str) -> Listing:
        """Bring one rank's staged files into the checkpoint and list them. It becomes a checkpoint with `commit`."""
        source, target = Path(staged), self.folder(step)
        names = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
        listing = {name: size_and_hash(str(source / name)) for name in names}
        if not is_local(target):
            upload_folder(staged, target)
            return listing
        for name in names:
            place = Path(target) / name
            make_folder(place.parent)
            (source / name).replace(place)
        return listing

    def commit(self, step: int, listing: Listing, extra: dict[str, Any]) -> None:
        """Write the footer over the files that all ranks have added. Another attempt's file makes it a damaged one."""
        FolderArtifact(self.folder(step), self.fields).commit(listing, extra)

    def newest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint. Damaged and unfinished ones are skipped with a line.

        Raises ArtifactError naming the field when one was made with another configuration, UnreachableError.
        """
        self.refuse_other()
        found = (self.load(step, say) for step in reversed(self._steps()))
        return next((checkpoint for checkpoint in found if checkpoint is not None), None)

    def load(self, step: int, say: Callable[[str], None]) -> Checkpoint | None:
        """The checkpoint of a step, its files checked against their SHA-256; None (and a line) when it is not whole."""
        artifact = FolderArtifact(self.folder(step), self.fields)
        try:
            content = artifact.load() or {}
            found = Checkpoint(step, artifact.folder, content.get("extra", {}))
            if not content or is_local(self.root):
                artifact.verify()
            else:
                found.fetched(everything=not self.ignored)  # checks the files on their way to where they are needed
            return found
        except ArtifactError as error:
            say(f"train-student: skipping a checkpoint that is not whole: {error}")
            return None

    def prune(self, best_step: int | None) -> None:
        """Remove all but the newest KEEP whole checkpoints and the best one."""
        steps = self._steps()
        whole = [step for step in steps if exists(join(self.folder(step), ARTIFACT_FILE))]
        for step in steps:
            if step not in whole[-KEEP:] and step != best_step and step < max(whole, default=0):
                delete_folder(self.folder(step))

    def sweep(self, newest: int) -> None:
        """Remove what a killed command left of checkpoints before the newest: folders without a footer."""
        for step in self._steps():
            if step < newest and not exists(join(self.folder(step), ARTIFACT_FILE)):
                delete_folder(self.folder(step))

    def problems(self) -> list[str]:
        """What is wrong with the files of committed checkpoints, a line each. Reads all of them."""
        found = []
        for step in self._steps():
            artifact = FolderArtifact(self.folder(step), {})
            try:
                if artifact.load() is not None:
                    artifact.verify()
            except ArtifactError as error:
                found.append(str(error))
        return found

    def refuse_other(self) -> None:
        """Raise ArtifactError naming the field when a checkpoint was made with another configuration."""
        for step in self._steps():
            try:
                content = FolderArtifact(self.folder(step), {}).load()
            except ArtifactError:
                continue  # damaged: `load` says so
            if content is not None:
                found = {name: value for name, value in content["fields"].items() if name not in self.ignored}
                require_equal(self.folder(step), found, self.fields)

    def _steps(self) -> list[int]:
        names = (name.removeprefix("step-") for name in list_folders(self.root) if name.startswith("step-"))
        return sorted(int(name) for name in names if name.isdigit())
