"""A folder for others (an exported model, MEDS tables): it appears whole and never replaces files of somebody else."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckd.errors import ArtifactError, ConfigError
from ckd.store.artifacts import Fields, FolderArtifact
from ckd.store.files import list_files, make_folder
from ckd.store.filesystems import is_local
from ckd.store.folders import list_folders

FORMAT = "format"  # the field of artifact.json that says what kind of folder it is


def standing(folder: str, kind: str) -> dict[str, Any] | None:
    """artifact.json of a folder of that kind; None where nothing is yet.

    Raises ConfigError when something else is there.
    """
    try:
        content = FolderArtifact(folder, {}).load()
        if content is not None and content["fields"][FORMAT] == kind:
            return content
    except (ArtifactError, KeyError, TypeError):
        content = {}
    if content is None and is_local(folder):
        empty = not Path(folder).exists() or (Path(folder).is_dir() and not any(Path(folder).iterdir()))
    else:
        empty = content is None and not list_files(folder) and not list_folders(folder)
    if not empty:
        raise ConfigError(f"{folder}: holds files that are no {kind}; give another folder, or empty this one")
    return None


def publish(local: str, folder: str, fields: Fields, extra: Mapping[str, Any]) -> None:
    """Put the files below the local folder `local` at `folder` (path or URL), in place of what is there.

    At a path they are prepared beside it and renamed. At a URL they are copied one by one, artifact.json last.
    """
    if not is_local(folder):
        FolderArtifact(folder, fields).commit_from(local, extra)
        return
    place = Path(folder).absolute()
    fresh, old = place.with_name(f".{place.name}.unfinished"), place.with_name(f".{place.name}.old")
    make_folder(place.parent)
    for left in (fresh, old):  # by a killed attempt
        shutil.rmtree(left, ignore_errors=True)
    FolderArtifact(str(fresh), fields).commit_from(local, extra)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)
