"""Keeps events.jsonl. It is appended on this machine; where a run's results lie at a URL, a local copy is uploaded now
and then."""

import io
import threading
import time
from contextlib import suppress
from pathlib import Path

from ckd.errors import UnreachableError
from ckd.store.files import digest, file_size, join, make_folder, read_bytes, write_bytes
from ckd.store.filesystems import is_local
from ckd.store.folders import cache_folder
from ckd.store.unwritable import writing

EVENTS_FILE = "events.jsonl"
SECONDS_BETWEEN_UPLOADS = 30.0


class EventLog:
    """`<folder>/events.jsonl`. Object stores cannot append: the whole file is uploaded, by `upload` and every 30 s.

    Lines at the URL are merged in before the file is replaced. So no line is lost when a run continues on another
    machine, or when one was killed before its upload. Their order is by upload; each line has its time.
    """

    def __init__(self, folder: str) -> None:
        self.target = join(folder, EVENTS_FILE)
        self.local = (
            Path(self.target) if is_local(folder) else cache_folder() / "events" / digest(self.target) / EVENTS_FILE
        )
        self._lock = threading.Lock()
        self._waiting = False  # lines that are not at the URL
        self._size: int | None = None  # of the file at the URL as this process left it
        self._uploaded = time.monotonic()

    def append(self, line: str) -> None:
        """Append one line. Where a URL does not answer, the line waits on this machine and the run goes on."""
        with self._lock:
            with writing(str(self.local)):
                self._append(line)
            self._waiting = not is_local(self.target)
        if self._waiting and time.monotonic() - self._uploaded >= SECONDS_BETWEEN_UPLOADS:
            with suppress(UnreachableError):
                self.upload()

    def _append(self, line: str) -> None:
        make_folder(self.local.parent)
        with self.local.open("ab+") as file:
            torn = file.tell() and (file.seek(-1, io.SEEK_END), file.read())[1] != b"\n"  # what a kill left of a line
            file.write(b"\n" * bool(torn) + line.encode() + b"\n")

    def lines(self) -> list[bytes]:
        """Every line that is known: at the URL, and of this machine. Raises UnreachableError."""
        with self._lock:
            try:
                there = read_bytes(self.target).splitlines()
            except FileNotFoundError:
                there = []
            known = set(there)
            here = self.local.read_bytes().splitlines() if self.local.exists() else []
            return [*there, *(line for line in here if line not in known)]

    def upload(self) -> None:
        """Bring the lines of this machine to the URL. Raises UnreachableError."""
        with self._lock:
            if not self._waiting:
                return
            self._uploaded = time.monotonic()
            if file_size(self.target) != self._size:
                self._merge()
            lines = self.local.read_bytes()
            write_bytes(self.target, lines)
            self._size, self._waiting = len(lines), False

    def _merge(self) -> None:
        """Put the lines that stand at the URL before those that only this machine has."""
        try:
            there = read_bytes(self.target).splitlines()
        except FileNotFoundError:
            return
        known = set(there)
        lines = [*there, *(line for line in self.local.read_bytes().splitlines() if line not in known)]
        write_bytes(str(self.local), b"\n".join(lines) + b"\n")
