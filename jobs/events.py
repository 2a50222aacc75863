"""events.jsonl: appended on this machine; for a run whose results lie at a URL, a local copy that is uploaded now and then. What an event
says is the jobs' business."""

import threading
import time
from contextlib import suppress
from pathlib import Path

from ckd.errors import UnreachableError
from ckd.store.files import digest, file_size, join, make_folder, read_bytes, write_bytes
from ckd.store.filesystems import is_local
from ckd.store.folders import cache_folder

EVENTS_FILE = "events.jsonl"
SECONDS_BETWEEN_UPLOADS = 30.0


class EventLog:
    """`<folder>/events.jsonl`. Object stores cannot append: there the whole file is uploaded, by `upload` or with an event when 30 s have passed.

    What stands at the URL is merged in before it is replaced, so a run that continues on another machine, or on one that was killed before it
    could upload, loses no line; their order is by upload, each line has its time.
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
        """Append one line. A URL that does not answer is no reason to stop here: the line waits on this machine."""
        with self._lock:
            make_folder(self.local.parent)
            with self.local.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._waiting = not is_local(self.target)
        if self._waiting and time.monotonic() - self._uploaded >= SECONDS_BETWEEN_UPLOADS:
            with suppress(UnreachableError):
                self.upload()

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
