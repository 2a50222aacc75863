"""Reads a task: a built-in one by its name, or a labels.yaml. An error names the line of the wrong label."""

import csv
import io
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import ValidationError

from ckd.config import TaskConfig
from ckd.errors import ConfigError
from ckd.section import place
from ckd.visits.labels import CCS25
from ckd.visits.task import MOST_LABELS, LabelError, Task
from ckd.yamltext import as_written, compose
from ckd.yamltext import line as line_of

_FOLDER = files("ckd.visits") / "tasks"
_CODE = re.compile(r"[A-Za-z0-9]+(\.[A-Za-z0-9]*)?")  # a whole one
_EXPECTED = {  # in place of pydantic's words, which name types of Python
    "tuple_type": "expected a list, in brackets or one line each",
    "model_type": "expected keys and values",
    "string_pattern_mismatch": "expected a prefix such as N17.1, or a range such as I20-I25",
    "too_long": f"expected at most {MOST_LABELS:,} labels",
}
_VERSIONS = {"9": "9", "10": "10", "icd9": "9", "icd10": "10"}


def built_in() -> list[str]:
    """The names of the built-in tasks."""
    return [CCS25.name, *sorted(path.name.removesuffix(".yaml") for path in _FOLDER.iterdir() if path.name[-1] == "l")]


def load_task(config: TaskConfig) -> Task:
    """The configured task. Raises ConfigError with file:line when it cannot be read."""
    if config.labels == CCS25.name:
        task = CCS25
    elif config.labels in built_in():
        task = _parsed((_FOLDER / f"{config.labels}.yaml").read_text(encoding="utf-8"), f"{config.labels}.yaml", Path())
    else:
        task = _parsed(_text(config.labels), config.labels, Path(config.labels).parent)
    return task.generic() if config.instruction == "generic" else task


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(built_in())
        raise ConfigError(f"task.labels={path}: no such file; expected a labels.yaml or one of {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}); expected a UTF-8 YAML file") from None


def _parsed(text: str, path: str, folder: Path) -> Task:
    root = compose(text, path)
    values = as_written(root, path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: expected name and labels (docs/labels.md), found no mapping")
    for number, label in enumerate(values.get("labels") or ()):
        if isinstance(label, dict) and label.get("codes"):
            where = f"{path}:{line_of(root, ('labels', number, 'codes'))}"
            if not isinstance(label["codes"], str):
                raise ConfigError(f"{where}: codes names a CSV file; codes and ranges go into icd9 or icd10")
            label["codes"] = _codes(folder / _file(label["codes"], where), where)
    try:
        return Task.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_described(error, root, path)) from None


def _described(error: ValidationError, root: yaml.Node | None, path: str) -> str:
    first = error.errors(include_url=False)[0]
    keys, cause = tuple(first["loc"]), first.get("ctx", {}).get("error")
    if isinstance(cause, LabelError):
        keys = ("labels", cause.place)
    where = ".".join(str(key + 1 if isinstance(key, int) else key) for key in keys)
    line = f"{path}:{line_of(root, keys)}"
    if first["type"] == "extra_forbidden":
        return f"{line}: unknown key '{keys[-1]}'; docs/labels.md lists the keys of a label"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "value_error"):
        return f"{line}: {where + ': ' if where else ''}{message}"
    found = f" (found {first['input']!r})" if isinstance(first["input"], str) else ""
    expected = message if keys == ("name",) else _EXPECTED.get(first["type"], message)
    return f"{line}: {where}: {expected}{found}"


def _file(name: str, where: str) -> str:
    try:
        return place(name)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _codes(path: Path, where: str) -> list[tuple[str, str]]:
    """The rows of a code list: columns code and version (9 or 10), others are not read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        raise ConfigError(f"{where}: {path} cannot be read ({type(error).__name__}); expected a UTF-8 CSV") from None
    rows = csv.DictReader(io.StringIO(text))
    try:
        found = set(_listed(rows, path))
    except csv.Error as error:
        raise ConfigError(f"{path}:{rows.line_num}: not CSV ({error}); mend that line") from None
    if not found:
        raise ConfigError(f"{path}:1: lists no code; expected one code per line")
    return sorted(found)


def _listed(rows: "csv.DictReader[str]", path: Path) -> Iterator[tuple[str, str]]:
    header = list(rows.fieldnames or ())
    if header.count("code") != 1 or header.count("version") != 1:
        raise ConfigError(
            f"{path}:1: no columns code and version; expected both, once, separated by commas, version 9 or 10"
        )
    for row in rows:
        code, version = (row["code"] or "").strip(), (row["version"] or "").strip().lower().replace("-", "")
        if not code or version not in _VERSIONS:
            raise ConfigError(f"{path}:{rows.line_num}: expected a code and a version, 9 or 10")
        if not _CODE.fullmatch(code):
            raise ConfigError(
                f"{path}:{rows.line_num}: not a whole code of letters, digits and a point; prefixes and ranges go into "
                "icd9 or icd10 of the labels.yaml"
            )
        yield code, _VERSIONS[version]
