"""Shows a run to a person and a log collector: lines, progress, events.jsonl. No patient text, only ids and figures."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TextIO

from ckd.errors import UnreachableError
from jobs.events import EventLog
from jobs.metrics import publish

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Console:
    """Writes lines to `stream`, and events to `<folder>/events.jsonl` (none: nowhere) and to `watch`.

    As a context it uploads the events at its end.
    """

    stream: TextIO
    folder: str = ""
    watch: Callable[[str, Mapping[str, object]], None] | None = None
    log: EventLog | None = field(init=False, default=None)
    spent: float | None = field(init=False, default=None)  # shown in progress, where a price is known

    def __post_init__(self) -> None:
        self.log = EventLog(self.folder) if self.folder else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.upload()
        elif not issubclass(kind, UnreachableError):  # else a second wait would show nothing new
            with suppress(UnreachableError):
                self.upload()

    def upload(self) -> None:
        """Bring events that wait on this machine to run.results, if that is a URL. Raises UnreachableError."""
        if self.log:
            self.log.upload()

    def say(self, line: str) -> None:
        """Print one line."""
        self.stream.write(line + "\n")
        self.stream.flush()

    def interrupt(self, line: str) -> None:
        """Print one line in place of a bar that a terminal shows."""
        self.say(("\r\x1b[K" if self.stream.isatty() else "") + line)

    def event(self, kind: str, **figures: object) -> None:
        """Append one machine-readable line to events.jsonl."""
        if self.watch:
            self.watch(kind, figures)
        if self.log:
            self.log.append(json.dumps({"time": round(time.time(), 3), "event": kind, **figures}, default=str))

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of this run so far, earlier commands' too; what a kill has left of a line is passed over."""
        for line in self.log.lines() if self.log else ():
            with suppress(ValueError):
                yield json.loads(line)

    def progress(self, label: str, total: int, done: int = 0) -> "Progress":
        """Report progress over `total` visits, `done` of which are there already."""
        return Progress(self, label, total, done)


class Progress:
    """A bar on a terminal, one plain line per 10 s otherwise: visits/s, tokens/s, time left."""

    def __init__(self, console: Console, label: str, total: int, done: int) -> None:
        self.console, self.label, self.total = console, label, total
        self.rows, self.tokens, self.resumed = done, 0, done
        self.started = self.last = time.monotonic()
        self.terminal = console.stream.isatty()

    def add(self, rows: int, tokens: int = 0) -> None:
        """Count finished visits (and tokens)."""
        self.rows += rows
        self.tokens += tokens
        now = time.monotonic()
        if self.terminal:
            self.console.stream.write("\r\x1b[K" + self._line(now))
            self.console.stream.flush()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            if not self.terminal:
                self.console.say(self._line(now))
            self.console.event("progress", stage=self.label, total=self.total - self.resumed, **self._figures(now))

    def close(self) -> dict[str, float]:
        """Finish the line, write the events, and return the figures."""
        now = time.monotonic()
        figures = self._figures(now)
        if self.terminal:
            self.console.stream.write("\r\x1b[K")
        self.console.say(self._line(now))
        self.console.event("progress", stage=self.label, total=self.total - self.resumed, **figures)
        self.console.event(self.label, **figures)
        return figures

    def _figures(self, now: float) -> dict[str, float]:
        seconds = max(now - self.started, 1e-9)
        return {
            "visits": self.rows - self.resumed,
            "seconds": round(seconds, 3),
            "visits_per_s": round((self.rows - self.resumed) / seconds, 2),
            "tokens_per_s": round(self.tokens / seconds, 1),
            **({} if self.console.spent is None else {"spent": round(self.console.spent, 4)}),
        }

    def _line(self, now: float) -> str:
        seconds = max(now - self.started, 1e-9)
        rate = (self.rows - self.resumed) / seconds
        left = f", {(self.total - self.rows) / rate:.0f} s left" if rate > 0 and self.rows < self.total else ""
        cost = "" if self.console.spent is None else f", cost so far {self.console.spent:,.2f}"
        tokens = f", {self.tokens / seconds:,.0f} tokens/s" if self.tokens else ""
        return f"{self.label}: {self.rows:,}/{self.total:,} visits, {rate:,.1f} visits/s{tokens}{cost}{left}"


def terminal_console(folder: str = "") -> Console:
    """The console of a command: standard output."""
    return Console(sys.stdout, folder, watch=publish)
