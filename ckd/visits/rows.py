"""Turns one row's fields into a Visit, or says which rule it breaks, in words that quote nothing of the row."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ckd.store.jsonfile import JsonError, parse_json
from ckd.visits.subgroups import group_of
from ckd.visits.task import NO_LABEL, Labels, NoLabelNamedError, Task, UnknownLabelError
from ckd.visits.visit import SPLITS, SUBGROUP_FIELDS, UNREAD_FIELDS, Source, Visit, hash64

CONVERSATIONS = ("messages", "conversations")  # LLaMA-Factory's other kind of rows, which has no input
MAX_LINE = 1 << 24  # bytes; a longer line is a bad row, so that memory stays bounded


class RowError(ValueError):
    """Why one row cannot be used; the message names fields and rules, never values."""


def parse_line(
    data: bytes, source: Source, line: int, task: Task, groups: Sequence[str] = (), *, to_learn: bool = True
) -> Visit:
    """The visit in one line of public JSONL. Raises RowError, whatever the bytes are.

    Fields: instruction, input, output (null: unlabeled); where given, unknown_labels (of them nothing is known),
    visit_id, subject_id, split, current_labels (a list of names), prediction_time and subgroups, also those named in
    `groups`. Rows for prediction (`to_learn` false) may lack instruction and output.
    """
    row = _json_object(data)
    if not to_learn:
        row = {"instruction": task.question, "output": None, **row}
    visit = _visit(row, _output(row, task), _names(row, "current_labels", task), source, line)
    return _with_groups(visit, row, groups) if groups else visit


def parse_row(row: Mapping[str, Any], source: Source, line: int, task: Task, groups: Sequence[str] = ()) -> Visit:
    """The visit in one row of Parquet, with texts as str or UTF-8 bytes. Raises RowError."""
    row = {"instruction": task.question, **row}
    labels, said = _flags(row, "labels", task), _output(row, task) if row.get("output") is not None else None
    if said is not None and row.get("labels") is not None and said != labels:
        raise RowError("fields 'labels' and 'output' say different things")
    current = _flags(row, "current_labels", task)
    visit = _visit(row, said if labels is None else labels, current, source, line)
    return _with_groups(visit, row, groups) if groups else visit


def _visit(row: Mapping[str, Any], labels: Labels | None, current: Labels | None, source: Source, line: int) -> Visit:
    text = _text(row, "input")
    if not text.strip():
        raise RowError("field 'input' is empty")
    split = _optional_text(row, "split")
    if split is not None and split not in SPLITS:
        raise RowError("field 'split' is none of train, tuning, held_out")
    return Visit(
        visit_id=_identifier(row, "visit_id") or "",
        instruction=_text(row, "instruction"),
        input=text,
        labels=labels,
        subject_id=_identifier(row, "subject_id"),
        split=split,
        current_labels=current,
        prediction_time=_optional_text(row, "prediction_time"),
        subgroups={name: value for name in SUBGROUP_FIELDS if (value := _subgroup(row, name)) is not None},
        source=source,
        line=line,
        unread={name: _content_hash(row[name]) for name in UNREAD_FIELDS if row.get(name)},
    )


def _with_groups(visit: Visit, row: Mapping[str, Any], names: Sequence[str]) -> Visit:
    try:
        found = {name: group for name in names if (group := group_of(row.get(name))) is not None}
    except (TypeError, UnicodeError):
        raise RowError(f"a field of ingest.subgroups ({', '.join(names)}) is neither text nor a number") from None
    return replace(visit, subgroups={**visit.subgroups, **found})


def _content_hash(value: Any) -> int:
    return hash64(value.decode(errors="replace") if isinstance(value, bytes) else value)


def _json_object(data: bytes) -> dict[str, Any]:
    if len(data) >= MAX_LINE:
        raise RowError(f"line of more than {MAX_LINE >> 20} MiB")
    try:
        row = parse_json(data)
    except JsonError as error:
        raise RowError(str(error)) from None
    if not isinstance(row, dict):
        raise RowError("not a JSON object")
    return row


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        held = next((f"; '{other}' is not read" for other in CONVERSATIONS if other in row), "")
        raise RowError(f"field '{name}' is missing{held}")
    value = _optional_text(row, name)
    if value is None:
        raise RowError(f"field '{name}' is not a string")
    return value


def _optional_text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bytes):  # Parquet text
            return value.decode()
        if isinstance(value, str):
            value.encode()  # JSON escapes can spell half a surrogate pair
            return value
    except UnicodeError:
        raise RowError(f"field '{name}' is not valid Unicode") from None
    raise RowError(f"field '{name}' is not a string")


def _identifier(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str | bytes):
        raise RowError(f"field '{name}' is neither a string nor an integer")
    text = _optional_text(row, name)
    if text is not None and not text.strip():
        raise RowError(f"field '{name}' is empty")
    return text


def _subgroup(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if isinstance(value, int | float):
        return str(value) if value == value else None  # NaN is how pandas writes a missing number
    return _optional_text(row, name)


def _output(row: Mapping[str, Any], task: Task) -> Labels | None:
    if "output" in row and row["output"] is None:
        return None
    try:
        present = task.parse_output(_text(row, "output"))
    except NoLabelNamedError:
        raise RowError(f"field 'output' names no disease; \"{NO_LABEL}\" is the empty set") from None
    except UnknownLabelError:
        raise RowError(f"field 'output' names a disease that is none of the {len(task)} labels") from None
    unknown = _names(row, "unknown_labels", task)
    if unknown is None:
        return present
    if any(both for both in zip(present, unknown, strict=True) if all(both)):
        raise RowError("field 'unknown_labels' names a label that 'output' names too")
    return _some_known([None if hidden else flag for flag, hidden in zip(present, unknown, strict=True)])


def _names(row: Mapping[str, Any], name: str, task: Task) -> tuple[bool, ...] | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise RowError(f"field '{name}' is not a list of disease names")
    try:
        return task.encode(value)
    except KeyError:
        raise RowError(f"field '{name}' names a disease that is none of the {len(task)} labels") from None


def _flags(row: Mapping[str, Any], name: str, task: Task) -> Labels | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != len(task) or not set(map(type, value)) <= {bool, type(None)}:
        raise RowError(f"field '{name}' is not a list of {len(task)} booleans")
    return _some_known(value)


def _some_known(values: Sequence[bool | None]) -> Labels | None:
    return None if set(values) == {None} else tuple(values)
