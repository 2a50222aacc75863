"""YAML whose scalars keep the characters that were written: 007, 1.10 and 12:30:45 may be names.

Errors name the line. A key that stands twice is refused: YAML itself would drop the first in silence.
"""

import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import yaml

from ckd.errors import ConfigError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it is there: 283 labels take .6 s without
_MOST_NODES = 1_000_000  # a few lines of aliases of aliases would fill the memory
_MERGE = "tag:yaml.org,2002:merge"
_OF_ANOTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")  # octal and base 60


def compose(text: str, path: str) -> yaml.Node | None:
    """The file's nodes; None for an empty one. Raises ConfigError with file:line."""
    try:
        root = yaml.compose(text, Loader=_LOADER)
        nodes = _written_out(root, {}) if root else 0
    except RecursionError:
        raise ConfigError(
            f"{path}:1: nested too deeply, or an alias (*) stands inside of what it names; write it without"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, problem = mark.line + 1 if mark else 1, getattr(error, "problem", "unreadable")
        raise ConfigError(f"{path}:{line}: not YAML ({problem}); mend that line") from None
    if nodes > _MOST_NODES:
        raise ConfigError(f"{path}:1: {nodes:,} values with its aliases (*) written out; expected {_MOST_NODES:,}")
    return root


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are with each alias written out. Raises RecursionError for one inside of what it names."""
    if id(node) not in known:
        inside = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for each in inside for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def entries(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, yaml.Node]]:
    """A mapping's keys, as they are written, with their values. Raises ConfigError for a key that stands twice."""
    own: dict[str, yaml.Node] = {}
    merged: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            for each in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                merged.update(entries(each, path) if isinstance(each, yaml.MappingNode) else ())
        elif str(key.value) in own:
            raise ConfigError(f"{path}:{key.start_mark.line + 1}: key '{key.value}' stands twice; remove one")
        else:
            own[str(key.value)] = value
    yield from {**merged, **own}.items()


def as_written(node: yaml.Node | None, path: str) -> Any:
    """Mappings, lists and texts as they stand in the file. Raises as `entries`."""
    if isinstance(node, yaml.SequenceNode):
        return [as_written(each, path) for each in node.value]
    if isinstance(node, yaml.MappingNode):
        return {key: as_written(value, path) for key, value in entries(node, path)}
    return node.value if node else None


def number(node: yaml.Node) -> Any:
    """What YAML makes of a node for a key that takes a number, true or null; text where it makes none.

    Raises ValueError for 0042 and 1:30, which YAML reads as 34 and 90.
    """
    if plain(node) and _OF_ANOTHER_BASE.fullmatch(node.value):
        raise ValueError("a number as YAML reads it otherwise than it looks; write it without leading zeros and colons")
    return _resolved(node)


def scalar(node: yaml.Node) -> Any:
    """true, null or a number where it looks like one in every dialect, else the text: 007, 1_000, dates and times."""
    found = _resolved(node)
    if isinstance(found, bool) or not isinstance(found, int | float | date):
        return found
    looks_otherwise = isinstance(found, date) or re.search(r"[_:]|^[-+]?0[0-9bx]", node.value)
    return node.value if looks_otherwise else found


def plain(node: yaml.Node | None) -> bool:
    """Whether a node is a scalar without quotes."""
    return isinstance(node, yaml.ScalarNode) and not node.style


def _resolved(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError):  # ValueError: for a date that there is not
        return node.value if isinstance(node, yaml.ScalarNode) else str(type(node).__name__)
    finally:
        loader.dispose()


def line(node: yaml.Node | None, keys: tuple[Any, ...]) -> int:
    """The line on which the deepest of these keys stands."""
    found = 1
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            found = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == key), None)
            if pair is None:
                break
            found, node = pair[0].start_mark.line + 1, pair[1]
        else:
            break
    return found
