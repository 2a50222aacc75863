"""A folder for others (an exported model, MEDS tables): it appears whole and never replaces files of somebody else."""

import errno
import glob
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ckd.errors import ArtifactError, ConfigError, IncompleteError
from ckd.store.artifacts import Fields, FolderArtifact
from ckd.store.files import list_files, make_folder, sync
from ckd.store.filesystems import is_local
from ckd.store.folders import list_folders

FORMAT = "format"  # the field of artifact.json that says what kind of folder it is
_LEFT = ("unfinished", "old")  # how names end that a killed attempt leaves beside the folder


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
    """Put the files below the local folder `local` at `folder` (path or URL), in place of an older one of that kind.

    At a path they are prepared beside it under a name of this attempt's own and renamed: of two at once the later one
    stays, whole. At a URL they are copied one by one, artifact.json last, and read back. Raises ConfigError as
    `standing`, IncompleteError when another command has written to the URL at the same time.
    """
    if not is_local(folder):
        standing(folder, str(fields[FORMAT]))
        artifact = FolderArtifact(folder, fields)
        artifact.commit_from(local, extra)
        try:
            artifact.verify()
        except ArtifactError as error:
            raise IncompleteError(f"{error} (another command has published there meanwhile)") from None
        return
    place = Path(folder).resolve()
    fresh, old = (place.with_name(f".{place.name}.{uuid.uuid4().hex}.{kind}") for kind in _LEFT)
    make_folder(place.parent)
    try:
        FolderArtifact(str(fresh), fields).commit_from(local, extra)
        while not _renamed(fresh, place):
            standing(folder, str(fields[FORMAT]))
            with suppress(FileNotFoundError):  # another has taken it away
                place.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        sync(place.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def sweep(folder: str) -> None:
    """Remove what killed attempts to publish left beside a local folder. Only for who alone publishes there."""
    place = Path(folder).resolve()
    for kind in _LEFT if is_local(folder) else ():
        for left in place.parent.glob(f".{glob.escape(place.name)}.*{kind}"):
            shutil.rmtree(left, ignore_errors=True)


def _renamed(source: Path, target: Path) -> bool:
    """Whether a folder got the other name, where nothing stands yet."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        return False
    return True
