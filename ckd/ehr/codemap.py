"""What a site says of its own codes: `ingest.code_map`, which adds to HCUP's tables and wins over them."""

import csv
import io
from collections.abc import Mapping
from typing import NamedTuple

from ckd.ehr.ccs import ccs_categories, normal, read_version
from ckd.errors import ConfigError
from ckd.store.files import read_bytes
from ckd.visits.grammar import names_the_labels
from ckd.visits.task import Task

_WANTED = "expected a CSV with the columns code, version and ccs or label"


class Meant(NamedTuple):
    """A CCS category, or the number of a label of the task."""

    ccs: str | None
    label: int | None


CodeMap = Mapping[tuple[str, str], Meant]  # normal code, version_key


def version_key(version: str | None) -> str | None:
    """ "9", "10", or another word for a code's version as it is, in capitals."""
    return read_version(version) or (version.strip().upper() or None if version else None)


def read_code_map(path: str, task: Task) -> CodeMap:
    """The rows of the CSV file `path`; none for "". Raises ConfigError with file:line for one that cannot be read."""
    if not path:
        return {}
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"ingest.code_map={path}: cannot be read ({type(error).__name__}); {_WANTED}") from None
    rows = csv.DictReader(io.StringIO(text))
    columns = set(rows.fieldnames or ())
    if not {"code", "version"} <= columns or not columns & {"ccs", "label"}:
        raise ConfigError(f"{path}:1: {_WANTED}")
    found: dict[tuple[str, str], Meant] = {}
    for row in rows:
        where = f"{path}:{rows.line_num}"
        code, version = normal(row["code"] or ""), version_key(row["version"])
        if not code or not version:
            raise ConfigError(f"{where}: no code or no version; {_WANTED}")
        meant = _meant((row.get("ccs") or "").strip(), (row.get("label") or "").strip(), task, where)
        if found.setdefault((code, version), meant) != meant:
            raise ConfigError(f"{where}: that code is there twice and means something else; keep one line")
    return found


def _meant(ccs: str, label: str, task: Task, where: str) -> Meant:
    if bool(ccs) == bool(label):
        raise ConfigError(f"{where}: expected a CCS category or a label, one of them")
    if label and label not in task.index:
        raise ConfigError(f"{where}: '{label}' is no label of task '{task.name}'; expected one as it writes them")
    if label and not names_the_labels(task):
        return Meant(None, task.index[label])
    ccs = ccs or str(task.labels[task.index[label]].ccs[0])
    if not ccs.isdecimal() or int(ccs) not in ccs_categories():
        raise ConfigError(f"{where}: '{ccs}' is no single-level CCS category; expected a number of HCUP's list")
    return Meant(str(int(ccs)), None)
