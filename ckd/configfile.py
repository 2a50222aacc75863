"""Reads the configuration from a YAML file and dotted `key=value` overrides. An error names the line of a wrong key."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ckd.config import Config
from ckd.errors import ConfigError

# user:password@ behind ://, or pyarrow's own options for keys
_SECRET = re.compile(r"(\w[\w+.-]*)://(?:[^\s/@]*:[^\s@]*@|\S*[?&](?:access_key|secret_key|session_token)=)")


def load(path: str | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file (None: only defaults) and apply dotted `key=value` overrides.

    Raises ConfigError with file:line (or the override) of the first wrong key or value.
    """
    text = _read(path) if path else ""
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, problem = mark.line + 1 if mark else 1, getattr(error, "problem", "unreadable")
        raise ConfigError(f"{path}:{line}: not YAML ({problem}); mend that line") from error
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ConfigError(f"{path}:1: expected sections such as 'data:' and 'teacher:', found a {found}")
    given: dict[tuple[str, ...], str] = {}
    for override in overrides:
        require_no_secret(override, f"{override.partition('=')[0]}: ")
        _apply(values, override, given)
    for found in _texts(values):
        require_no_secret(found, f"{path}: ")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe(error, path, text, given)) from None


def require_no_secret(text: str, where: str = "") -> None:
    """Raise ConfigError, which does not show it, for a URL with credentials: URLs stand in logs and jobs."""
    found = _SECRET.search(text)
    if found:
        raise ConfigError(
            f"{where}{found[1]}://…: a URL with credentials in it, not shown here; expected {found[1]}://bucket/folder "
            "and the credentials in the environment (docs/storage.md)"
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
    try:
        value = raw if not raw or (_is_text(parts) and raw[0] not in "'\"") else yaml.safe_load(raw)
    except yaml.YAMLError:
        raise ConfigError(f"override '{override}': the value is not YAML; quote it") from None
    node = values
    for part in parts[:-1]:
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise ConfigError(f"override '{override}': '{part}' has no keys below it")
    node[parts[-1]] = value
    given[parts] = override


def _describe(error: ValidationError, path: str | None, text: str, given: dict[tuple[str, ...], str]) -> str:
    first = error.errors(include_url=False)[0]
    where_path = tuple(str(part) for part in first["loc"])
    # An error of a whole section is put down to the first override in that section.
    touched = (o for parts, o in given.items() if all(a == b for a, b in zip(where_path, parts, strict=False)))
    override = next(touched, None)
    where = f"override '{override}'" if override else f"{path or 'config'}:{_line(text, where_path)}"
    key = ".".join(where_path)
    if first["type"] == "extra_forbidden":
        known = _keys(where_path[:-1])
        close = difflib.get_close_matches(where_path[-1], known, n=1)
        meant = ".".join([*where_path[:-1], *close])
        hint = f"did you mean '{meant}'?" if close else f"known here: {', '.join(known)}"
        return f"{where}: unknown key '{key}'; {hint}"
    return f"{where}: {key}: {first['msg'].removeprefix('Value error, ')} (found {first['input']!r})"


def _is_text(parts: tuple[str, ...]) -> bool:
    """Whether a key takes text, which is what was typed: YAML would cut it at " #" and divide it at ": "."""
    model: Any = Config
    for name in parts:
        field = model.model_fields.get(name) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = field.annotation if field else None
    return model is str


def _keys(section: tuple[str, ...]) -> list[str]:
    model: Any = Config
    for name in section:
        model = getattr(model.model_fields.get(name), "annotation", None)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)


def _line(text: str, keys: tuple[str, ...]) -> int:
    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 1
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        found = next(((k, v) for k, v in pairs if k.value == key), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
