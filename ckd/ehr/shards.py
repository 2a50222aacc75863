"""The event shards of a MEDS data set, and what beside them may hold events, which is never passed over in silence."""

from collections.abc import Iterator
from pathlib import Path

from ckd.errors import DataError
from ckd.visits.datafolder import entries, is_part, reason_to_refuse, table_mark


def event_shards(folder: str) -> list[Path]:
    """data/**/*.parquet, or all below `folder` if it has no folder data.
    Raises DataError when there is none, or more may hold events."""
    base = Path(folder, "data") if Path(folder, "data").is_dir() else Path(folder)
    found = dict(_below(base, frozenset()))
    shards = sorted(path for path, why in found.items() if not why)
    if not shards:
        raise DataError(f"{base}: no *.parquet file; expected the event shards of a MEDS data set below data/")
    for path, why in sorted(found.items()):
        if why:
            raise DataError(f"{path}: {why}")
    return shards


def _below(folder: Path, above: frozenset[Path]) -> Iterator[tuple[Path, str]]:
    """Every shard below a folder, and what may be one, with the reason why it is not read. Links are followed."""
    found = entries(str(folder))
    for name, size in found.items():
        path = folder / name
        if mark := table_mark(str(folder), name, found):
            yield path, mark
        elif is_part(name, size):
            yield path, ""
        elif size is not None or name[0] in "._":
            if why := reason_to_refuse(name, size):
                yield path, why
        elif name != "metadata" and (there := path.resolve()) not in above:
            yield from _below(path, above | {there})
