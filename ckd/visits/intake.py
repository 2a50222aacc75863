"""Gives every input row an identity: names those without one, quarantines what cannot be used, counts everything."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from ckd.config import DataConfig
from ckd.errors import DataError
from ckd.store.files import write_file
from ckd.visits.echo import Echo
from ckd.visits.grammar import diseases_in_treatment_clause, names_the_labels
from ckd.visits.inputs import BadRow, Input
from ckd.visits.splits import HashSet
from ckd.visits.subgroups import Tally
from ckd.visits.task import Task
from ckd.visits.visit import Source, Visit, hash64

NOT_NEXT_VISIT = 0.5  # echo rate above which targets look like the current visit's labels, not the next one's


@dataclass
class Counts:
    """What was read. read = kept + quarantined, always."""

    read: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # quarantined rows per reason
    first: dict[str, str] = field(default_factory=dict)  # file:line of the first row of each reason
    unlabeled: int = 0
    without_subject: int = 0
    current_known: int = 0  # labelled visits whose current labels are known
    echoes: int = 0  # of these, visits whose target equals the current labels (see Echo)
    unread: Counter[str] = field(default_factory=Counter)  # visits per field of UNREAD_FIELDS that holds something
    systems: list[int] = field(default_factory=list)  # hashes of the texts in 'system': the first two

    @property
    def quarantined(self) -> int:
        """Rows that cannot be used."""
        return sum(self.reasons.values())

    @property
    def echo_rate(self) -> float | None:
        """Share of visits whose target is the current visit's labels; None when no current labels are known."""
        return self.echoes / self.current_known if self.current_known else None

    @property
    def grouped_by(self) -> str:
        """What keeps visits together in a split: subject, input (no subject_id anywhere), or both."""
        if not self.without_subject:
            return "subject"
        return "input" if self.without_subject == self.kept else "subject, without one input"

    def lines(self, system: str = "") -> list[str]:
        """What a person has to know about the rows, without any of their text. `system`: teacher.system."""
        lines = [f"read {self.read:,} = kept {self.kept:,} + quarantined {self.quarantined:,}"]
        lines += [
            f"quarantined {count:,}: {reason} (first: {self.first[reason]})"
            for reason, count in self.reasons.most_common()
        ]
        if self.without_subject:
            found = f"{self.without_subject:,} of {self.kept:,} visits have no subject_id"
            lines.append(f"{found}: splitting by visit: patients may leak")
        if self.unlabeled:
            lines.append(f"{self.unlabeled:,} visits are unlabeled")
        lines += self._unread(system)
        if self.echo_rate is None:
            lines.append("echo rate: unknown, no current_labels and no treatment clause")
            return lines
        share = f"{self.echo_rate:.1%} of {self.current_known:,} visits"
        lines.append(f"echo rate: the target equals the current visit's labels in {share}")
        if self.echo_rate > NOT_NEXT_VISIT:
            told = "more than half of the targets repeat the current visit"
            lines.append(f"warning: {told}: this is not next-visit prediction")
        return lines

    def _unread(self, system: str) -> Iterator[str]:
        """What the teacher may have been tuned with, and will not be shown."""
        for name, count in self.unread.items():
            if name == "system" and self.systems == [hash64(system)] and count == self.kept:
                continue
            remedy = "a teacher that was tuned with it gets other prompts here"
            if name == "system":
                several = ", not all the same" if len(self.systems) > 1 else ""
                remedy = f"what the teacher was tuned with is given as teacher.system, one text for all visits{several}"
            yield f"{count:,} of {self.kept:,} visits have a field '{name}', which is not read: {remedy}"

    def require_at_most(self, max_bad_rows: int, listed_in: str = "") -> None:
        """Raise DataError when more rows than `data.max_bad_rows` are quarantined."""
        if self.quarantined <= max_bad_rows:
            return
        counted = self.reasons.most_common()
        reasons = ", ".join(f"{count:,} × {reason} (first: {self.first[reason]})" for reason, count in counted)
        where = f"; all are listed in {listed_in}" if listed_in else ""
        raise DataError(
            f"{self.quarantined:,} of {self.read:,} rows cannot be used, data.max_bad_rows allows {max_bad_rows:,}: "
            f"{reasons}{where}; mend these rows or raise data.max_bad_rows"
        )


class Intake:
    """Iterates over the usable visits of some inputs in order, with unique ids. Memory: 8 bytes per visit.

    Bad rows go to `quarantine` (one JSON object with location and reason per line) and into `counts`.
    """

    def __init__(self, inputs: Sequence[Input], quarantine: BinaryIO | None = None) -> None:
        self.counts = Counts()
        self._inputs, self._quarantine, self._ids = inputs, quarantine, HashSet()
        self._echo = Echo()
        self.groups = Tally(tuple(dict.fromkeys(name for each in inputs for name in each.asked)))
        self._clause_says = any(names_the_labels(each.task) for each in inputs)

    def __iter__(self) -> Iterator[tuple[Visit, str]]:
        """Each visit with its file:line. Raises DataError when an input cannot be read."""
        for source in self._inputs:
            of_input = Tally(source.asked)
            for row in source.rows():
                self.counts.read += 1
                if isinstance(row, BadRow):
                    self._refuse(row)
                    continue
                visit = row if row.visit_id else replace(row, visit_id=self._derive(row))
                location = source.locate(row.line)
                if not self._ids.add(_id_key(visit.visit_id)):
                    self._refuse(BadRow(location, "field 'visit_id' repeats that of an earlier row"))
                    continue
                self._count(visit)
                self.groups.add(visit)
                of_input.add(visit)
                yield visit, location
            of_input.require_known(source.path, source.fields)
        self.groups.require(self._inputs[0].path)
        self.counts.current_known, self.counts.echoes = self._echo.known, self._echo.equal

    def settle(self, max_bad_rows: int, listed_in: str = "") -> Counts:
        """The counts, when all has been read; the quarantined rows are then listed at the path or URL `listed_in`.

        Raises DataError when they are more than `max_bad_rows`.
        """
        counts, quarantine = self.counts, self._quarantine
        if counts.read != counts.kept + counts.quarantined:
            raise RuntimeError(f"read {counts.read} is not kept {counts.kept} + quarantined {counts.quarantined}")
        if quarantine is not None:
            quarantine.seek(0)
            write_file(listed_in, lambda stream: shutil.copyfileobj(quarantine, stream))
        counts.require_at_most(max_bad_rows, listed_in)
        return counts

    def _refuse(self, row: BadRow) -> None:
        self.counts.reasons[row.reason] += 1
        self.counts.first.setdefault(row.reason, row.location)
        if self._quarantine is not None:
            self._quarantine.write(json.dumps({"location": row.location, "reason": row.reason}).encode() + b"\n")

    def _derive(self, visit: Visit) -> str:
        """A hash of the row's content and of its number among identical rows: the same wherever the row stands."""
        content = hash64(visit.subject_id, visit.instruction, visit.input, visit.labels)

        def name(ordinal: int) -> str:
            return f"{hash64(content, ordinal):016x}"

        def taken(ordinal: int) -> bool:
            return _id_key(name(ordinal)) in self._ids

        # Numbers are taken without gaps: double until one is free, then halve the gap. n identical rows cost n log n.
        below, free = -1, 0
        while taken(free):
            below, free = free, 2 * free + 1
        while free - below > 1:
            middle = (below + free) // 2
            below, free = (middle, free) if taken(middle) else (below, middle)
        return name(free)

    def _count(self, visit: Visit) -> None:
        counts = self.counts
        counts.kept += 1
        counts.without_subject += visit.subject_id is None
        for name, found in visit.unread.items():
            counts.unread[name] += 1
            if name == "system" and len(counts.systems) < 2 and found not in counts.systems:
                counts.systems.append(found)
        if visit.labels is None:
            counts.unlabeled += 1
        elif visit.current_labels is not None:
            self._echo.recorded(visit.current_labels, visit.labels)
        elif self._clause_says and (named := diseases_in_treatment_clause(visit.input)) is not None:
            self._echo.named(named, visit.labels)


def configured_inputs(data: DataConfig, task: Task, subgroups: Sequence[str] = ()) -> list[Input]:
    """data.train, data.tuning and data.held_out, those that are given. Raises DataError when one is missing."""
    given: list[tuple[Source, str]] = [("train", data.train), ("tuning", data.tuning), ("held_out", data.held_out)]
    return [Input(path, source, task, subgroups=subgroups) for source, path in given if path]


def _id_key(visit_id: str) -> int:
    return hash64("visit", visit_id)
