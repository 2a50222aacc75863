"""The student's checkpoints, `<artifacts>/checkpoints/step-0000200/`: each a folder artifact whose footer is written last. Which files a
checkpoint holds is the trainer's business; the newest whole one wins."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckd.errors import ArtifactError, ConfigError
from ckd.store import ARTIFACT_FILE, Fields, FolderArtifact, is_local, require_equal

LAYOUT = ("student.workers", "student.zero_stage", "dtype")
KEEP = 2  # newest checkpoints that stay, beside the best


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the state after `step` optimizer steps, and what the run knew then."""

    step: int
    folder: str
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one student below an artifacts root, a local or shared folder.

    `fields` hold what decides the values; `layout` (its names are LAYOUT) how the files are cut, which training must not change either. None: only to
    be read, whatever the layout.
    """

    def __init__(self, root: str, fields: Fields, layout: Fields | None) -> None:
        if not is_local(root):
            raise ConfigError(f"run.results={root}: the student's checkpoints need a local or shared folder; set run.results to one")
        self.root = Path(root) / "checkpoints"
        self.fields = {**fields, **(layout or {})}
        self.ignored = LAYOUT if layout is None else ()

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.root / f"step-{step:07d}"

    def clear(self, step: int) -> Path:
        """Make the empty folder of a new checkpoint; its footer goes first, so that a kill leaves nothing that looks whole."""
        folder = self.folder(step)
        (folder / ARTIFACT_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit(self, step: int, extra: dict[str, Any]) -> None:
        """Write the footer over the files that are there."""
        folder = self.folder(step)
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        FolderArtifact(str(folder), self.fields).commit(files, extra)

    def newest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint. Damaged and unfinished ones are skipped with a line.

        Raises ArtifactError naming the field when one was made with another configuration.
        """
        steps = self._steps()
        for step in steps:
            self._refuse_other(step)
        for step in reversed(steps):
            found = self.load(step, say)
            if found is not None:
                return found
        return None

    def load(self, step: int, say: Callable[[str], None]) -> Checkpoint | None:
        """The checkpoint of a step, its files checked against their SHA-256; None (and a line) when it is not whole."""
        artifact = FolderArtifact(str(self.folder(step)), self.fields)
        try:
            artifact.verify()
            content = artifact.load() or {}
        except ArtifactError as error:
            say(f"train-student: skipping a checkpoint that is not whole: {error}")
            return None
        return Checkpoint(step, artifact.folder, content["extra"])

    def prune(self, best_step: int | None) -> None:
        """Remove all but the newest KEEP whole checkpoints and the best one."""
        whole = [step for step in self._steps() if (self.folder(step) / ARTIFACT_FILE).is_file()]
        for step in self._steps():
            if step not in whole[-KEEP:] and step != best_step and step < max(whole, default=0):
                (self.folder(step) / ARTIFACT_FILE).unlink(missing_ok=True)
                shutil.rmtree(self.folder(step), ignore_errors=True)

    def _steps(self) -> list[int]:
        names = (path.name.removeprefix("step-") for path in self.root.glob("step-*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdigit())

    def _refuse_other(self, step: int) -> None:
        try:
            content = FolderArtifact(str(self.folder(step)), {}).load()
        except ArtifactError:
            return  # damaged: `load` says so
        if content is not None:
            found = {name: value for name, value in content["fields"].items() if name not in self.ignored}
            require_equal(str(self.folder(step)), found, self.fields)
