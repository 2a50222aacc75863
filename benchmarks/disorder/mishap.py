"""One event: the command meets its mishap, what the user is told is done, and the end is compared with no mishap's."""

import platform
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.disorder.driver import NEVER, Blow, Driver, Drivers, Ended
from benchmarks.disorder.files import States, contents, differences, flip, rows_lost
from benchmarks.disorder.plan import STAGES, Event, Stage, words
from benchmarks.pipeline.bitflips import values
from testbed.fulldisk import only

CHECKPOINTS = "/artifacts/checkpoints"
SHOWN, MISSED = 20, ", which it did not reach"
DAMAGED = 2  # the exit code of a command that refuses what it should read
TRIES = 3  # of the same command, and of what a refusal tells to do
_TOLD = re.compile(r"delete (?:(?P<path>/[^\s;,]+)|(?P<folder>that folder|the folder)|it\b|this record)")


@dataclass
class Course:
    """What happened in an event, in order."""

    what: str = ""
    ended: list[tuple[str, Ended]] = field(default_factory=list)  # command, and how its driver ended
    seen_by: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    harmless: bool = False  # the bit decides no value


class Mishaps:
    """Lets events happen in the work folder; `states` and `undisturbed` hold what is without, with Ray and without."""

    def __init__(self, inputs: Path, drivers: Drivers, states: dict[bool, States], address: str) -> None:
        self.inputs, self.drivers, self.states, self.address = inputs, drivers, states, address
        self.work = drivers.folder
        self.undisturbed: dict[tuple[str, bool], Ended] = {}

    def alone(self, ray: bool) -> None:
        """Run all commands undisturbed; keep the work folder after each, its calls and its seconds."""
        for stage in STAGES.values():
            self.states[ray].restore(stage.after)
            one = self._start(stage.name, ray, Blow(own=stage.calls(ray))).ended()
            if one.code:
                raise SystemExit(f"{stage.name}, undisturbed: exit code {one.code}\n{one.said}")
            self.undisturbed[stage.name, ray] = one
            self.states[ray].keep(stage)

    def happen(self, event: Event) -> dict[str, Any]:
        """Let one event happen; what is to be reported of it, its faults among that."""
        started, stage, course = time.monotonic(), STAGES[event.stage], Course()
        states, bit = self.states[event.ray], event.kind == "bit"
        states.restore(stage.name if bit else stage.after)
        happen: Callable[[Event, Stage, Course], None] = getattr(self, f"_{event.kind}")
        happen(event, stage, course)
        wanted, found = states.contents(STAGES[stage.then].end if bit else stage.end), contents(self.work)
        spent = tuple(name for name in course.deleted if CHECKPOINTS in name)  # a finished student needs none of them
        wanted = {name: content for name, content in wanted.items() if not name.startswith(spent)}
        lost, differing = rows_lost(wanted, found), differences(wanted, found)
        return {
            **asdict(event),
            "what": course.what,
            "exit_codes": [f"{command} {one.code}" for command, one in course.ended],
            "said": [self._without_names(line) for _, one in course.ended for line in one.refusals],
            "seen_by": course.seen_by,
            "deleted": course.deleted,
            "harmless": course.harmless,
            "rows_lost": lost,
            "differences": differing[:SHOWN],
            "faults": faults(event, course, lost, differing)[:SHOWN],
            "seconds": round(time.monotonic() - started, 1),
        }

    def _without_names(self, line: str) -> str:
        """A line without the place and the machine of this benchmark."""
        return line.replace(str(self.work.parent.parent), "").replace(f" on {platform.node()},", ",")

    def _kill(self, event: Event, stage: Stage, course: Course) -> None:
        one = self._run(event.stage, event, course, self._blow(signal.SIGKILL, event, stage, course))
        course.what += "" if one.code == -signal.SIGKILL else MISSED
        self._again(event, course)

    def _stop(self, event: Event, stage: Stage, course: Course) -> None:
        first = self._start(event.stage, event.ray, self._blow(signal.SIGSTOP, event, stage, course))
        stopped = first.stopped()
        second = self._start(event.stage, event.ray)
        if stopped:
            second.until_it_waits_or_ends()
            first.go_on()
        course.what += "" if stopped else MISSED
        course.ended += [(event.stage, one.ended()) for one in (first, second)]
        self._again(event, course)

    def _two(self, event: Event, stage: Stage, course: Course) -> None:
        first = self._start(event.stage, event.ray)
        seconds = event.at * self.undisturbed[event.stage, event.ray].seconds
        time.sleep(seconds)
        course.what = f"{seconds:.2f} s later"
        second = self._start(event.stage, event.ray)
        course.ended += [(event.stage, one.ended()) for one in (first, second)]
        self._again(event, course)

    def _full(self, event: Event, stage: Stage, course: Course) -> None:
        states = self.states[event.ray]
        need = states.size(stage.end) - states.size(stage.after)
        free = int(event.at * need)
        course.what = f"{free:,} bytes free of {need:,}"
        with only(free, self.work.parent):
            self._run(event.stage, event, course)
        self._again(event, course)

    def _bit(self, event: Event, stage: Stage, course: Course) -> None:
        before = self.states[event.ray].contents(stage.after)
        new = {
            name: one
            for name, one in contents(self.work).items()
            if before.get(name) != one and stage.own in f"/{name}"
        }
        name = sorted(new)[int(event.which * len(new))]
        bit = int(event.at * 8 * len(new[name]))
        course.what = f"bit {bit} of {name}"
        flip(self.work / name, bit)
        again: list[str] = []
        for _ in range(TRIES):
            told = [*again, *self._asked(event, stage, course)]
            if not told:
                break
            for path in filter(None, (to_delete(line, self.work) for line in told)):
                course.deleted.append(str(path.relative_to(self.work)))
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            one = self._run(event.stage, event, course)
            again = one.refusals if one.code == DAMAGED else []
        path, found = self.work / name, contents(self.work).get(name)
        if found and not course.seen_by and values(path, found) == values(path, new[name]):
            course.harmless = True
            path.write_bytes(new[name])

    def _asked(self, event: Event, stage: Stage, course: Course) -> list[str]:
        """What the next command and the one that proves the stage's files have to say about damage."""
        told: list[str] = []
        for command in filter(None, (stage.then, stage.audit)):
            one = self._run(command, event, course)
            lines = [line for line in one.said.splitlines() if line.startswith("problem: ")]
            lines += one.refusals if one.code == DAMAGED else []
            course.seen_by += [command] if lines else []
            told += lines
        return told

    def _again(self, event: Event, course: Course) -> None:
        """The same command until it has done its work."""
        for _ in range(TRIES):
            if self._run(event.stage, event, course).code == 0:
                return

    def _run(self, command: str, event: Event, course: Course, blow: Blow = NEVER) -> Ended:
        one = self._start(command, event.ray, blow).ended()
        course.ended.append((command, one))
        return one

    def _start(self, command: str, ray: bool, blow: Blow = NEVER) -> Driver:
        return self.drivers.start(words(command, self.inputs, self.work, ray), blow, self.address if ray else "")

    def _blow(self, by: int, event: Event, stage: Stage, course: Course) -> Blow:
        calls = self.undisturbed[event.stage, event.ray].points
        at = 1 + int(event.at * calls)
        course.what = f"call {at} of {calls}"
        return Blow(by, at, stage.calls(event.ray))


def to_delete(line: str, work: Path) -> Path | None:
    """What a line tells to delete; None when it tells nothing, or that is no longer there."""
    told = _TOLD.search(line)
    path = re.search(re.escape(str(work)) + r"[^\s:;,]*", line)
    if told is None or path is None:
        return None
    found = Path(told["path"] or path[0])
    if told["folder"] and not found.is_dir():
        found = found.parent
    return found if found.exists() and work in found.parents else None


def faults(event: Event, course: Course, lost: int, differing: list[str]) -> list[str]:
    """What must not be, a line each."""
    found = [] if not lost else [f"{lost} rows lost"]
    found += differing
    killed = -signal.SIGKILL if event.kind == "kill" else 0
    for command, one in course.ended:
        if one.code not in (0, 3, killed) and not (one.code == 2 and event.kind == "bit"):
            found.append(f"{command}: exit code {one.code}")
        if "Traceback" in one.said:
            found.append(f"{command}: traceback: {one.said.strip().splitlines()[-1]}")
        if one.code in (2, 3) and len(one.refusals) != 1:
            found.append(f"{command}: exit code {one.code} with {len(one.refusals)} lines")
        if event.kind == "full" and one.code == 3 and "no space left" not in one.said:
            found.append(f"{command}: does not say that the disk is full")
    last = next(one.code for command, one in reversed(course.ended) if command != "verify")
    found += [f"the last ends with {last}"] if last else []
    if event.kind == "bit" and not course.seen_by and not course.harmless:
        found.append("a damage that nothing saw")
    return found
