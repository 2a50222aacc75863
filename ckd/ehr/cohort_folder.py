"""The folder of a cohort: what in it is this ingest's own, what of it may be removed, what the finished one must hold.

Everything else belongs to somebody: it is never replaced, never removed, and never becomes part of a cohort.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckd.ehr.card import ASSOCIATION_FILE
from ckd.ehr.ingest import WORK, Clauses, Partition, Work, part_file, unfinished
from ckd.ehr.labeltables import TASK_FILE
from ckd.ehr.subject_splits import SubjectSplits
from ckd.ehr.wording import FILE as WORDING_FILE
from ckd.errors import ArtifactError, ConfigError
from ckd.store.artifacts import read_footer, require_equal
from ckd.store.files import join, listing, read_bytes, size_and_hash
from ckd.store.filesystems import is_local
from ckd.visits.datafolder import CARD_FILE

if TYPE_CHECKING:
    from pyarrow import fs

_PART = re.compile(r"part-\d{5,}\.parquet")
_CUT_OFF = re.compile(
    r"\.(?:part-\d{5,}\.parquet|(?:card|artifact|wording)\.json|association\.csv|labels\.yaml)\.[0-9a-f]{32}\.tmp"
)
_BESIDE = (CARD_FILE, ASSOCIATION_FILE, WORDING_FILE, TASK_FILE)  # the parts
_WORK = re.compile(re.escape(WORK) + r"[0-9a-f]{16}")


def require_ours(work: Work) -> None:
    """Raise unless all that stands in the unfinished cohort's folder was made by this ingest.

    ConfigError names others' files, MismatchError a part of other tables or settings, ArtifactError a damaged part.
    Hidden files are neither read nor touched. Costs one read of a footer per part.
    """
    there = [info for info in listing(work.out) if not info.base_name.startswith(".")]
    ours = set(_BESIDE) if _is_card(work) else set()
    strange = [info.base_name for info in there if not _is_part(work, info) and info.base_name not in ours]
    if strange:
        names = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        remedy = "give another --out, or move away what is yours and delete the rest"
        raise ConfigError(f"{work.out}: holds {names}, which this ingest has not made; {remedy}")


def _is_part(work: Work, info: "fs.FileInfo") -> bool:
    if not info.is_file or not _PART.fullmatch(info.base_name):
        return False
    path = join(work.out, info.base_name)
    footer = read_footer(path)
    if footer is not None:
        require_equal(path, {name: footer.fields.get(name) for name in work.fields}, work.fields)
    return True


def _is_card(work: Work) -> bool:
    """Whether the card is one of these tables and settings: it is written before the associations."""
    try:
        return bool(json.loads(read_bytes(join(work.out, CARD_FILE)))["settings"] == dict(work.fields))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def whole_cohort(
    work: Work, partitions: Sequence[Partition], splits: SubjectSplits, clauses: Clauses
) -> Mapping[str, Any]:
    """Size and SHA-256 of every file of the cohort, whose parts are those that were written, with all their rows.

    Raises ArtifactError when one is missing, another one, or more than there should be: at a URL two may write.
    """
    parts = {part_file(p.index): work.written(p.index)["file"] for p in partitions}
    there = {info.base_name: info.size for info in listing(work.out) if _PART.fullmatch(info.base_name)}
    other = {name for name in {*parts, *there} if there.get(name) != parts.get(name, {}).get("size")}
    other |= {part_file(p.index) for p in unfinished(work, partitions, splits, clauses)}
    if other:
        where = join(work.out, min(other))
        raise ArtifactError(f"{where}: missing, or not the part that was written; delete it and run the command again")
    return {
        **parts,
        **{
            name: size_and_hash(join(work.out, name))
            for name in _BESIDE
            if not (work.now and name == ASSOCIATION_FILE) and (work.of_tables or name != TASK_FILE)
        },
    }


def sweep_cut_off(work: Work) -> None:
    """Remove what killed steps left in the work folder; nobody else may be at work there."""
    for path in Path(work.folder).glob("*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def sweep(work: Work, *, alone: bool) -> None:
    """Remove the work folder; where no other ingest can be at work, also what killed ones left in the folder."""
    shutil.rmtree(work.folder, ignore_errors=True)
    if alone and is_local(work.out):
        for path in Path(work.out).iterdir():
            if _CUT_OFF.fullmatch(path.name):
                path.unlink()
            elif _WORK.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
