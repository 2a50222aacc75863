"""Turns one row's fields into a Visit, or says which rule it breaks, in words that quote nothing of the row."""

from collections.abc import Mapping
from typing import Any

from ckd.store.jsonfile import JsonError, parse_json
from ckd.visits.labels import (
    INSTRUCTION,
    NO_DISEASE,
    NUM_LABELS,
    NoDiseaseNamedError,
    UnknownDiseaseError,
    encode,
    parse_output,
)
from ckd.visits.visit import SPLITS, SUBGROUP_FIELDS, UNREAD_FIELDS, Source, Visit, hash64

Labels = tuple[bool, ...]
CONVERSATIONS = ("messages", "conversations")  # LLaMA-Factory's other kind of rows, which has no input
MAX_LINE = 1 << 24  # bytes; a longer line is a bad row, so that memory stays bounded


class RowError(ValueError):
    """Why one row cannot be used; the message names fields and rules, never values."""


def parse_line(data: bytes, source: Source, line: int, *, to_learn: bool = True) -> Visit:
    """The visit in one line of public JSONL. Raises RowError, whatever the bytes are.

    Fields: instruction, input, output (null: unlabeled); where given, visit_id, subject_id, split, current_labels (a
    list of disease names), prediction_time and subgroups. Rows for prediction (`to_learn` false) may lack instruction
    and output.
    """
    row = _json_object(data)
    if not to_learn:
        row = {"instruction": INSTRUCTION, "output": None, **row}
    return _visit(row, _output(row), _disease_list(row), source, line)


def parse_row(row: Mapping[str, Any], source: Source, line: int) -> Visit:
    """The visit in one row of Parquet, with texts as str or UTF-8 bytes. Raises RowError."""
    return _visit(row, _flags(row, "labels"), _flags(row, "current_labels"), source, line)


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


def _output(row: Mapping[str, Any]) -> Labels | None:
    if "output" in row and row["output"] is None:
        return None
    try:
        return parse_output(_text(row, "output"))
    except NoDiseaseNamedError:
        raise RowError(f"field 'output' names no disease; \"{NO_DISEASE}\" is the empty set") from None
    except UnknownDiseaseError:
        raise RowError("field 'output' names a disease that is none of the 25 labels") from None


def _disease_list(row: Mapping[str, Any]) -> Labels | None:
    value = row.get("current_labels")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise RowError("field 'current_labels' is not a list of disease names")
    try:
        return encode(value)
    except KeyError:
        raise RowError("field 'current_labels' names a disease that is none of the 25 labels") from None


def _flags(row: Mapping[str, Any], name: str) -> Labels | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != NUM_LABELS or set(map(type, value)) != {bool}:
        raise RowError(f"field '{name}' is not a list of {NUM_LABELS} booleans")
    return tuple(value)
