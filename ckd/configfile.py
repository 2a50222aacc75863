"""Reads the configuration from a YAML file and dotted `key=value` overrides. An error names the line of a wrong key."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ckd.config import Argument, Config
from ckd.errors import ConfigError
from ckd.section import Workers
from ckd.yamltext import as_written, compose, entries, line, number, plain, scalar

# user:password@ behind ://, or pyarrow's own options for keys
_SECRET = re.compile(r"(\w[\w+.-]*)://(?:[^\s/@]*:[^\s@]*@|\S*[?&](?:access_key|secret_key|session_token)=)")

# The names that Azure's storage has in URLs of Hadoop, fsspec and pyarrow, and its own addresses.
_AZURE = re.compile(r"\b(abfss?|az|azure|adl|wasbs?)://|\b(https?)://[\w.-]+\.(?:blob|dfs|file)\.core\.windows\.net")


def load(path: str | None, overrides: Sequence[str] = (), text: str | None = None) -> Config:
    """Read a YAML file (None: only defaults), or its `text` where it is known, and apply dotted `key=value` overrides.

    Raises ConfigError with file:line (or the override) of the first wrong key or value.
    """
    where = path or "config"
    root = compose(_read(path) if text is None else text, path) if path else None
    if root is not None and not isinstance(root, yaml.MappingNode):
        found = type(as_written(root, where)).__name__
        raise ConfigError(f"{path}:1: expected sections such as 'data:' and 'teacher:', found a {found}")
    values = _value(root, Config, where) if root else {}
    given: dict[tuple[str, ...], str] = {}
    for override in overrides:
        require_usable_url(override, f"{override.partition('=')[0]}: ")
        _apply(values, override, given)
    for found in _texts(values):
        require_usable_url(found, f"{path}: ")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe(error, path, root, given)) from None


def require_usable_url(text: str, where: str = "") -> None:
    """Raise ConfigError, which does not show it, for a URL with credentials, or of Azure's storage, which nobody tried.

    URLs stand in logs and jobs, and pyarrow would take an Azure one.
    """
    found = _SECRET.search(text)
    if found:
        raise ConfigError(
            f"{where}{found[1]}://…: a URL with credentials in it, not shown here; expected {found[1]}://bucket/folder "
            "and the credentials in the environment (docs/storage.md)"
        )
    azure = _AZURE.search(text)
    if azure:
        raise ConfigError(
            f"{where}{azure[1] or azure[2]}://…: Azure's storage is not supported; expected s3://bucket/folder, "
            "gs://bucket/folder or a folder, on a cluster one that all machines mount (docs/storage.md)"
        )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def dump(config: Config) -> str:
    """The resolved configuration as YAML that `load` reads back."""
    values = config.model_dump()
    for section in ("teacher", "student", "ingest"):
        values[section]["workers"] = str(getattr(config, section).workers)
    return yaml.safe_dump(values, sort_keys=False)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; start from jobs/default.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}); expected a UTF-8 YAML file") from None


def _apply(values: dict[str, Any], override: str, given: dict[tuple[str, ...], str]) -> None:
    key, equals, raw = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise ConfigError(f"override '{override}': expected key=value, such as data.train=data/name_train.json")
    value = _typed(raw, _kind(parts), f"override '{override}'")
    node = values
    for part in parts[:-1]:
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise ConfigError(f"override '{override}': '{part}' has no keys below it")
    node[parts[-1]] = value
    given[parts] = override


def _describe(
    error: ValidationError, path: str | None, root: yaml.Node | None, given: dict[tuple[str, ...], str]
) -> str:
    first = error.errors(include_url=False)[0]
    where_path = tuple(str(part) for part in first["loc"])
    # An error of a whole section is put down to the first override in that section.
    touched = (o for parts, o in given.items() if all(a == b for a, b in zip(where_path, parts, strict=False)))
    override = next(touched, None)
    where = f"override '{override}'" if override else f"{path or 'config'}:{line(root, first['loc'])}"
    key = ".".join(where_path)
    if first["type"] == "extra_forbidden":
        known = _keys(where_path[:-1])
        close = difflib.get_close_matches(where_path[-1], known, n=1)
        meant = ".".join([*where_path[:-1], *close])
        hint = f"did you mean '{meant}'?" if close else f"known here: {', '.join(known)}"
        return f"{where}: unknown key '{key}'; {hint}"
    return f"{where}: {key}: {first['msg'].removeprefix('Value error, ')} (found {first['input']!r})"


def _kind(parts: tuple[str, ...], kind: Any = Config) -> Any:
    """The type of what stands at a key of a section; None for an unknown one."""
    for name in parts:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(name)
            kind = field.annotation if field else None
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else None
    return kind


def _is_text(kind: Any) -> bool:
    kind = kind.__origin__ if get_origin(kind) is Annotated else kind
    words = get_args(kind) if get_origin(kind) is Literal else ()
    return kind in (str, Workers) or bool(words and all(isinstance(word, str) for word in words))


def _typed(raw: str, kind: Any, where: str) -> Any:
    """The value of a word on the command line: of a text key what was typed, without the quotes around all of it."""
    if not raw:
        return raw
    try:
        node = yaml.compose(raw, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if _is_text(kind) and (plain(node) or not isinstance(node, yaml.ScalarNode) or node.end_mark.index != len(raw)):
        return raw
    if node is None:
        raise ConfigError(f"{where}: the value is not YAML; quote it")
    return _value(node, kind, where)


def _value(node: yaml.Node, kind: Any, where: str) -> Any:
    """What a node says to a key of this type: for texts the characters that are written, else what YAML makes of it."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, kind, where)
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, get_args(kind)[0] if get_args(kind) else str, where) for each in node.value]
    if not isinstance(node, yaml.MappingNode):
        raise TypeError(type(node).__name__)
    section = isinstance(kind, type) and issubclass(kind, BaseModel)
    each = get_args(kind)[1] if get_origin(kind) is dict else str
    return {key: _value(value, _kind((key,), kind) if section else each, where) for key, value in entries(node, where)}


def _scalar(node: yaml.ScalarNode, kind: Any, where: str) -> Any:
    """A scalar for a key of this type. Raises ConfigError for a number that YAML reads otherwise than it looks."""
    at = f"{where}:{node.start_mark.line + 1}" if not where.startswith("override") else where
    if plain(node) and node.value == "~":
        raise ConfigError(f"{at}: ~ alone is no value here; write '' for none, or a folder's whole path")
    if not plain(node) or _is_text(kind):
        return node.value
    if kind == Argument:
        return scalar(node)
    try:
        found = number(node)
    except ValueError as error:
        raise ConfigError(f"{at}: '{node.value}': {error}") from None
    return node.value if isinstance(found, bool) and kind is not bool else found


def _keys(section: tuple[str, ...]) -> list[str]:
    model: Any = Config
    for name in section:
        model = getattr(model.model_fields.get(name), "annotation", None)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)
