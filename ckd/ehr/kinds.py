"""Every kind of source by its name: what `ckd ingest` offers, how a source is opened, which files it may read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ckd.ehr.eicu import Eicu
from ckd.ehr.layouts import LAYOUTS
from ckd.ehr.meds import Meds
from ckd.ehr.omop import Omop
from ckd.ehr.source import Source
from ckd.ehr.tables import Tables
from ckd.ehr.vocabulary import Vocabulary
from ckd.errors import ConfigError, DataError

_RELATED: Mapping[str, type[Tables]] = {"omop": Omop, "eicu": Eicu}  # whose tables are looked up in each other
_EVENTS = {"meds": "MEDS shards with hadm_id"}
KINDS: Mapping[str, str] = {name: layout.help for name, layout in LAYOUTS.items()} | _EVENTS  # name -> help


def open_source(
    kind: str, folder: str, split_column: str = "", meds_codes: str = "", subgroups: Sequence[str] = ()
) -> Source:
    """Find the files of `kind` below `folder` and read their headers. `meds_codes`: a table of prefixes of MEDS codes.

    Raises DataError when a table or a column is missing, is there twice, or is of no use; ConfigError when no table has
    `split_column` or one of the `subgroups`.
    """
    if kind not in KINDS:
        raise ConfigError(f"'{kind}': no kind of tables; expected one of {', '.join(KINDS)}")
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; give the folder that holds the {kind} tables")
    split_column, layout = split_column.lower(), LAYOUTS.get(kind)
    if layout:
        source: Source = _RELATED.get(kind, Tables).open(kind, folder, split_column, layout)
    else:
        source = Meds.open(kind, folder, split_column, Vocabulary.of(meds_codes))
    source.require_split_column()
    return source.with_subgroups(subgroups) if subgroups else source


def may_read(kind: str, name: str) -> bool:
    """Whether file `name` below its folder may be one of a source's tables or its license; of events, any file may."""
    parts, layout = name.lower().split("/"), LAYOUTS.get(kind)
    names = {table.file for table in layout.all_tables.values()} if layout else set()
    return not layout or parts[0].startswith("license") or any(part.partition(".")[0] in names for part in parts)
