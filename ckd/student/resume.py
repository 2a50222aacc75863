"""From a checkpoint to what a rank can load: copied down from a URL, and cut anew for another number of ranks.

The order of visits does not depend on the ranks, so training goes on where it was; only dropout masks are drawn anew.
"""

import hashlib
import io
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ckd.store.copies import forget_copy, made_once
from ckd.store.filesystems import is_local
from ckd.store.folders import cache_folder
from ckd.student.checkpoint import Checkpoint
from ckd.student.ranks import Ranks

_TRAINER_FILES = ("trainer_state.json", "scheduler.pt")  # what the Trainer reads beside DeepSpeed's files


@dataclass(frozen=True)
class Resume:
    """A local folder to continue from. `temporary` can go once every rank has loaded."""

    folder: str
    universal: bool  # DeepSpeed's universal format, for any number of ranks
    other_world: bool  # another number of ranks wrote it: none of its random states fits
    temporary: tuple[str, ...] = ()


def prepare(start: Checkpoint, ranks: Ranks, zero_stage: int | None) -> Resume:
    """Make what this rank loads; ranks on one machine share a copy. Errors are raised on all ranks."""
    folder = ranks.each(start.fetched)[ranks.rank]
    temporary = () if is_local(start.folder) else (folder,)
    other_world = start.world != ranks.world
    if not other_world or not zero_stage:  # without ZeRO every rank holds everything
        return Resume(folder, False, other_world, temporary)
    target = cache_folder() / "universal" / str(ranks.broadcast(uuid4().hex))
    ranks.each(lambda: made_once(target, lambda unfinished: to_universal(folder, unfinished)))
    return Resume(str(target), True, True, (*temporary, str(target)))


def forget(resume: Resume) -> None:
    """Remove what `prepare` made on this machine."""
    for folder in resume.temporary:
        forget_copy(folder)


def random_seed(seed: int, step: int, ranks: Ranks) -> int:
    """The seed of a rank that continues at `step` without a random state of its own."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {ranks.world} {ranks.rank}".encode()).digest()[:4], "big")


def to_universal(folder: str, target: Path) -> None:
    """Write the DeepSpeed checkpoint (ZeRO stage 1 to 3) in `folder` to `target`, cut for any number of ranks."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target, ignore_errors=True)
    tag = (Path(folder) / "latest").read_text(encoding="utf-8").strip()
    arguments = Namespace(
        input_folder=str(Path(folder) / tag),
        output_folder=str(target / tag),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    target.mkdir(parents=True)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it reports on every file
        ds_to_universal.main(arguments)
    for name in _TRAINER_FILES:
        shutil.copyfile(Path(folder) / name, target / name)
