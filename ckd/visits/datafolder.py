"""What is in a folder of Parquet parts: every entry is read, passed over by name, or the reason why all is refused.

A folder that is read in part would give other results without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckd.errors import ArtifactError, DataError
from ckd.store.artifacts import FolderArtifact, read_footer
from ckd.store.files import exists, join, listing
from ckd.store.filesystems import is_local
from ckd.store.folders import ARTIFACT_FILE
from ckd.store.jsonfile import read_json

PARQUET_SUFFIX = ".parquet"
CARD_FILE = "card.json"
_COHORT = {ARTIFACT_FILE, CARD_FILE, "association.csv", "wording.json"}  # what `ckd ingest` puts beside the parts
_WORK = ".ckd-ingest-"  # the work folder of an ingest
_NO_DATA = (".md", ".txt", ".html", ".pdf", ".yaml", ".yml", ".log", ".md5", ".sha256")
_TABLES = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table", "_spark_metadata": "a Spark stream's table"}
_REWRITE = "its folder also holds rows that are no longer in the table: write its rows out as plain Parquet, give those"
_AGAIN = "run the same 'ckd ingest' again, or copy the whole folder"


@dataclass(frozen=True)
class DataFolder:
    """The parts of a folder by name, and the entries that hold no visits."""

    parts: tuple[str, ...]
    passed_over: tuple[str, ...]
    hashes: Mapping[str, str]  # SHA-256 of the parts of a cohort of `ckd ingest`


def data_folder(path: str) -> DataFolder:
    """Account for every entry of the folder `path` (or URL).

    Raises DataError for what may hold visits and would not be read, for tables of Delta, Iceberg, Hudi or Hive, and for
    a cohort that is not whole.
    """
    found = entries(path)
    for name in found:
        if kind := table_mark(path, name, found):
            raise DataError(f"{path}: {kind}")
    parts = {name: size for name, size in found.items() if is_part(name, size)}
    finished = ARTIFACT_FILE in found
    for name, size in found.items():
        if name not in parts and (why := reason_to_refuse(name, size)) and not (finished and name.startswith(_WORK)):
            raise DataError(f"{join(path, name)}: {why}")
    hashes = _cohort(path, parts, finished)
    return DataFolder(tuple(parts), tuple(name for name in found if name not in {*parts, *_COHORT}), hashes)


def entries(path: str) -> dict[str, int | None]:
    """Name -> size of every entry of a folder, in order; None for a folder, -1 for a link to nothing."""
    if not is_local(path):
        return {info.base_name: info.size if info.is_file else None for info in listing(path)}
    found = sorted(Path(path).iterdir(), key=lambda entry: entry.name)
    return {e.name: None if e.is_dir() else e.stat().st_size if e.exists() else -1 for e in found}


def is_part(name: str, size: int | None) -> bool:
    """Whether an entry is a Parquet file that is read: not hidden, and not what a writer has not finished."""
    return size is not None and size >= 0 and name.lower().endswith(PARQUET_SUFFIX) and name[0] not in "._"


def reason_to_refuse(name: str, size: int | None, expected: str = PARQUET_SUFFIX) -> str:
    """Why an entry that is no part must not be left out in silence; "" for one that holds no rows."""
    if name.startswith(_WORK):
        return f"left by an ingest that has not finished; {_AGAIN}"
    if size is None and name.startswith("_temporary"):
        return "left by a writer that has not finished; write the folder anew, or remove it"
    documents = name.lower().endswith(_NO_DATA) or name.lower().startswith(("license", "readme"))
    if name[0] in "._" or name in _COHORT or (documents and size is not None):
        return ""
    if size is None:
        return "a folder inside, whose files are not read; move its parts up, or give each folder by itself"
    if size == -1:
        return "a link to nothing; restore what it points to, or remove it"
    return f"not a {expected} part, so its rows would be left out; write it as one, or move it away"


def table_mark(path: str, name: str, found: Mapping[str, int | None]) -> str:
    """What table format an entry is the mark of, and what to do; "" where it is none."""
    if found[name] is not None:
        return ""
    if name in _TABLES:
        return f"{_TABLES[name]} ({name}), {_REWRITE}"
    if name == "metadata" and any(inside.endswith(".metadata.json") for inside in entries(join(path, name))):
        return f"an Iceberg table ({name}/*.metadata.json), {_REWRITE}"
    key, equals, _ = name.partition("=")
    if equals and key.isidentifier():
        why = f"a Hive layout, which keeps column '{key}' in the names of its folders"
        return f"{why}: write it as plain Parquet files with that column, all in one folder"
    return ""


def _cohort(path: str, parts: Mapping[str, int | None], finished: bool) -> dict[str, str]:
    """The SHA-256 of a finished cohort's parts. Raises DataError when some are missing, or it is not finished."""
    if parts and not finished and _stage(join(path, min(parts))) == "cohort":
        raise DataError(f"{path}: parts of a cohort without its {ARTIFACT_FILE}, so some may be missing; {_AGAIN}")
    try:
        content = (FolderArtifact(path, {}).load() if finished else None) or {"files": {}}
    except ArtifactError:
        raise DataError(f"{join(path, ARTIFACT_FILE)}: not what 'ckd ingest' writes; {_AGAIN}") from None
    listed = {name: facts for name, facts in content["files"].items() if name.endswith(PARQUET_SUFFIX)}
    for name in sorted({*listed, *parts}) if listed else ():
        if name not in parts or name not in listed or parts[name] != listed[name]["size"]:
            what = "missing" if name not in parts else "no part of this cohort, or changed since it was made"
            raise DataError(f"{join(path, name)}: {what}; {_AGAIN}")
    return {name: facts["sha256"] for name, facts in listed.items()}


def _stage(part: str) -> str | None:
    """The stage that made a part; None for somebody else's file."""
    try:
        footer = read_footer(part)
    except ArtifactError:
        return None
    return footer.stage if footer else None


def card_of(folder: str) -> dict[str, Any]:
    """The card that `ckd ingest` wrote beside a cohort's parts; empty where there is none.

    Raises ArtifactError when it is no JSON object, or not what was written.
    """
    path, again = join(folder, CARD_FILE), "run 'ckd ingest' again"
    card = read_json(path, again) if folder and exists(path) else {}
    if not isinstance(card, dict):
        raise ArtifactError(f"{path}: not a JSON object; {again}")
    return card
