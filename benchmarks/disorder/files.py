"""All files of a state of the work folder: kept, restored, compared; the rows in them, a bit of one of them."""

import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.disorder.plan import EMBEDDINGS, Stage

LOG, LOCKS = "events.jsonl", ".*.lease"  # of every command; what a killed one leaves of them means nothing
Contents = dict[str, bytes]
_SPEED = re.compile(rb'<section id="speed-section".*?</section>', re.DOTALL)


class States:
    """Copies of the work folder after each command of an undisturbed run."""

    def __init__(self, work: Path, kept: Path) -> None:
        self.work, self.kept = work, kept

    def restore(self, name: str) -> None:
        """Make the work folder what it was after a stage; empty for ""."""
        for entry in self.work.iterdir():
            shutil.rmtree(entry)
        if name:
            shutil.copytree(self.kept / name, self.work, dirs_exist_ok=True)

    def keep(self, stage: Stage) -> None:
        """Keep the work folder as the state after a stage; after `prepare` without what its command did besides."""
        target = self.kept / stage.name
        shutil.copytree(self.work, target)
        if stage.ends_as:
            for folder in target.glob(f"results/*{EMBEDDINGS}"):
                shutil.rmtree(folder)

    def contents(self, name: str) -> Contents:
        """All files after a stage; none before the first."""
        return contents(self.kept / name) if name else {}

    def size(self, name: str) -> int:
        """Bytes of all files after a stage, in whole pages."""
        return sum(-(-len(content) // 4096) * 4096 for content in self.contents(name).values())


def contents(folder: Path) -> Contents:
    """Relative path -> bytes of every file but logs and locks; of a report without the seconds that it shows."""
    passed = {LOG, *(path.name for path in folder.rglob(LOCKS))}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in passed)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: _SPEED.sub(b"", one) if name.endswith("report.html") else one for name, one in found.items()}


def differences(wanted: Contents, found: Contents) -> list[str]:
    """A line per file that is missing, differs or is too much."""
    lines = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"left behind: {name}" for name in sorted(found.keys() - wanted.keys())]
    both = sorted(wanted.keys() & found.keys())
    return lines + [f"differs: {name}" for name in both if wanted[name] != found[name]]


def rows(found: Contents) -> dict[str, int]:
    """Folder -> rows in all its parts; a part that cannot be read has none."""
    counts: dict[str, int] = {}
    for name, content in found.items():
        if name.endswith(".parquet"):
            folder = str(Path(name).parent)
            counts[folder] = counts.get(folder, 0) + _rows(content)
    return counts


def rows_lost(wanted: Contents, found: Contents) -> int:
    """How many rows fewer than wanted the folders hold, of all folders together."""
    have = rows(found)
    return sum(max(0, count - have.get(folder, 0)) for folder, count in rows(wanted).items())


def _rows(content: bytes) -> int:
    try:
        return int(pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows)
    except (OSError, pa.ArrowException):
        return 0


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file, which keeps its time: as when a disk errs."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
