"""Two golden sets side by side: which files and lines differ, and in what.

Reads the two JSON files alone, so it needs neither tree nor libraries; takes a second.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN = 12  # differences printed per file
_ABSENT = "(absent)"


@dataclass
class Comparison:
    """How many files and commands are equal; per one that differs what differs, split into on purpose and not."""

    equal: int = 0
    differing: dict[str, list[str]] = field(default_factory=dict)
    on_purpose: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """What to print."""
        yield f"equal: {self.equal} files and commands"
        for title, group in (("on purpose", self.on_purpose), ("different", self.differing)):
            yield f"{title}: {len(group)}"
            for name, found in group.items():
                yield f"  {name}"
                yield from (f"    {line}" for line in found[:SHOWN])
                if len(found) > SHOWN:
                    yield f"    … and {len(found) - SHOWN} more"


def compare(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Mapping[str, str]) -> Comparison:
    """Compare `files` and `says` of two sets; `allowed` maps regexes of names to reasons."""
    result = Comparison()
    for kind in ("files", "says"):
        one, other = old[kind], new[kind]
        for name in sorted(one.keys() | other.keys()):
            found = list(_differences(one.get(name), other.get(name)))
            label = name if kind == "files" else f"says: {name}"
            reason = next((text for pattern, text in allowed.items() if re.search(pattern, label)), None)
            if not found:
                result.equal += 1
            elif reason is None:
                result.differing[label] = found
            else:
                result.on_purpose[label] = [f"reason: {reason}", *found]
    return result


def read_allowed(path: Path) -> dict[str, str]:
    """Lines of `path-regex: reason`; empty lines and those that begin with # are left out.

    Raises ValueError for a line without a reason: a difference on purpose has one.
    """
    allowed = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, found, reason = line.rpartition(": ")
        if not found or not reason.strip():
            raise ValueError(f"{path}: {line!r}: expected 'path-regex: reason'")
        allowed[pattern.strip()] = reason.strip()
    return allowed


def _differences(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Iterator[str]:
    if one is None or other is None:
        yield "new" if one is None else "missing"
        return
    if one == other:
        return
    if "data" in one and one.get("data") == other.get("data") and one["data"] is not None:
        yield "data equal, the file's bytes differ"
    elif "data" in one:
        yield "data differ" if one["data"] is not None else "bytes differ (not readable as tensors)"
    if "text" in one and "text" in other:
        yield from _lines(one["text"].splitlines(), other["text"].splitlines())
    rest = {key: value for key, value in one.items() if key not in {"data", "sha256", "text"}}
    others = {key: value for key, value in other.items() if key not in {"data", "sha256", "text"}}
    yield from _values(rest, others, "")


def _lines(one: Sequence[str], other: Sequence[str]) -> Iterator[str]:
    for line in difflib.unified_diff(one, other, lineterm="", n=0):
        if not line.startswith(("---", "+++", "@@")):
            yield line[:200]


def _values(one: Any, other: Any, where: str) -> Iterator[str]:
    """Paths at which two parsed JSON values differ, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _values(one.get(key, _ABSENT), other.get(key, _ABSENT), f"{where}.{key}" if where else str(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _values(left, right, f"{where}[{place}]")
    elif one != other:
        yield f"{where}: {_short(one)} -> {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
