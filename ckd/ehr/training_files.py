"""A cohort as files to train with: name_train, name_val and name_test.json, and what LLaMA-Factory needs to tune the
teacher on them."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ckd.ehr.exported import Hashed, OwnFiles
from ckd.errors import ConfigError, DataError
from ckd.store.files import (
    delete,
    exists,
    join,
    open_file,
    read_bytes,
    size_and_hash,
    sweep_temporary,
    write_bytes,
    write_file,
)
from ckd.store.filesystems import is_local, reaching
from ckd.store.lease import lease
from ckd.visits.datafolder import PARQUET_SUFFIX, card_of
from ckd.visits.inputs import BadRow, Input
from ckd.visits.labels import CCS25
from ckd.visits.public_files import VISIT_FILES, adapter_file, visit_file, visit_line
from ckd.visits.splits import of_adapter
from ckd.visits.task import Task
from ckd.visits.visit import SPLITS, SUBGROUP_FIELDS, Split

DATASETS_FILE, RECIPE_FILE = "dataset_info.json", "qwen25_7b_lora_sft.yaml"
_ADAPTER = "adapter"  # beside the splits: the stream of the adapter's own file
OPTIONAL_FIELDS = ("subject_id", "split", "current_labels", "prediction_time", *SUBGROUP_FIELDS)
_AGAIN = "expected a cohort as `ckd ingest` makes it; make it again"
_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}


@dataclass(frozen=True)
class Exported:
    """What was written."""

    visits: Mapping[Split, int]  # without the splits that have no labelled visit
    for_adapter: int  # train visits that the adapter may see
    unlabeled: int
    recipe: str
    recipe_kept: bool  # another YAML was there already
    data_license: str
    credentialed: bool


def export(cohort: str, out: str, adapter_share: float = 0, task: Task = CCS25) -> Exported:
    """Write the labelled visits of a cohort (a folder of Parquet parts, or one file), one JSONL file per split.

    All files or none appear. Also `dataset_info.json` with name_train and name_val, other entries kept, never
    name_test; and the YAML for LLaMA-Factory, unless another one is there. With `adapter_share` its name_train is a
    file of its own with that share of the train subjects; name_train.json still holds all of them, for
    `ckd run teacher.adapter_share=…`. Raises DataError for a cohort that cannot be used, or for a file in `out` that
    would mix with another cohort's or give the test visits away, ConfigError for one that an earlier export has not
    written, IncompleteError while another one writes there; then nothing has been written.
    """
    name = _folder_name(out)
    with lease(out, "ckd export jsonl"):
        sweep_temporary(out, "*")  # patients' texts that a killed one left
        return _export(Input(cohort, "train", task), task, out, name, adapter_share)


def _export(source: Input, task: Task, out: str, name: str, adapter_share: float) -> Exported:
    own = OwnFiles(out)
    labeled, unlabeled, fields = _survey(source)
    fields += source.subgroups
    card = card_of(source.path)
    for split in SPLITS:
        if not labeled[split] and exists(path := visit_file(out, split)):
            why = f"of another cohort, as this one has no labelled {split} visit"
            raise DataError(f"{path}: {why}; delete it or give another --out")
    datasets = _datasets(out, labeled, adapter_share)
    present = [split for split in SPLITS if labeled[split]]
    paths: dict[str, str] = {split: visit_file(out, split) for split in present}
    if adapter_share:
        paths[_ADAPTER] = adapter_file(out)
    files = {stream: path.rpartition("/")[2] for stream, path in paths.items()}
    own.require(files.values())

    def write(streams: Mapping[str, Hashed]) -> int:
        found = _pump(source, task, streams, fields, adapter_share)
        written.update({files[name]: stream.facts for name, stream in streams.items()})
        own.announce(written)
        return found

    written: dict[str, Any] = {}
    for_adapter = _write_together(paths, write)
    if not adapter_share and own.owns(adapter_file("").lstrip("/")):
        delete(adapter_file(out))  # an earlier export's: nothing lists it any more
    write_bytes(join(out, DATASETS_FILE), (json.dumps(datasets, indent=2, ensure_ascii=False) + "\n").encode())
    recipe, kept = _write_recipe(out, name, own)
    own.settle(written if kept else {**written, RECIPE_FILE: size_and_hash(recipe)})
    return Exported(
        visits={split: labeled[split] for split in present},
        for_adapter=for_adapter,
        unlabeled=unlabeled,
        recipe=recipe,
        recipe_kept=kept,
        data_license=str(card.get("data_license", "")),
        credentialed=bool(card.get("credentialed", False)),
    )


def _survey(source: Input) -> tuple[Counter[str], int, list[str]]:
    """Labelled visits per split, visits without labels, the optional fields that any visit has; no text is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labeled: Counter[str] = Counter()
    unlabeled, used = 0, set[str]()
    for part in source.parts:
        if not part.lower().endswith(PARQUET_SUFFIX):
            raise DataError(f"{part}: not Parquet; {_AGAIN}")
        try:
            with reaching(part), open_file(part) as stream:
                file = pq.ParquetFile(stream)
                missing = [name for name in ("visit_id", "split", "labels") if name not in file.schema_arrow.names]
                if missing:
                    raise DataError(f"{part}: no column {', '.join(missing)}; {_AGAIN}")
                names = [name for name in OPTIONAL_FIELDS if name in file.schema_arrow.names]
                for batch in file.iter_batches(1 << 16, columns=["labels", *names]):
                    has_labels = batch["labels"].is_valid()
                    labeled.update(batch["split"].filter(has_labels).to_pylist())
                    unlabeled += batch["labels"].null_count
                    used |= {name for name in names if batch[name].null_count < batch.num_rows}
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{part}: cannot be read ({type(error).__name__}); {_AGAIN}") from None
    if not labeled:
        raise DataError(f"{source.path}: no visit has labels; {_AGAIN}")
    if not set(labeled) <= set(SPLITS):
        raise DataError(f"{source.path}: column split holds something other than {', '.join(SPLITS)}; {_AGAIN}")
    return labeled, unlabeled, [name for name in OPTIONAL_FIELDS if name in used]


def _pump(source: Input, task: Task, streams: Mapping[str, Any], fields: list[str], adapter_share: float) -> int:
    """Write every labelled visit; returns how many train visits the adapter may see.
    Raises DataError where the share leaves the adapter or the head without visits."""
    train = for_adapter = 0
    for visit in source.rows():
        if isinstance(visit, BadRow):
            raise DataError(f"{visit.location}: {visit.reason}; {_AGAIN}")
        if visit.labels is None or visit.split is None:
            continue
        line = visit_line(visit, ["visit_id", *fields], task)
        streams[visit.split].write(line)
        train += visit.split == "train"
        if visit.split == "train" and adapter_share and of_adapter([visit.group], adapter_share)[0]:
            streams[_ADAPTER].write(line)
            for_adapter += 1
    if adapter_share and not 0 < for_adapter < train:
        gives = f"gives the adapter {for_adapter} of {train} train visits"
        expected = "expected some for it and some for the head: another share, or a cohort of more subjects"
        raise DataError(f"--adapter-share {adapter_share:g}: {gives}; {expected}")
    return for_adapter if adapter_share else train


def _write_together(paths: Mapping[str, str], work: Callable[[Mapping[str, Hashed]], int]) -> int:
    """Call `work` with a stream per path; returns its result. The files appear after it returned, none if it raises."""
    found = 0

    def open_next(left: list[str], streams: dict[str, Hashed]) -> None:
        nonlocal found
        if not left:
            found = work(streams)
            return
        path, rest = paths[left[0]], left[1:]
        write_file(path, lambda stream: open_next(rest, {**streams, left[0]: Hashed(stream)}), private=True)

    open_next(list(paths), {})
    return found


def _datasets(out: str, labeled: Mapping[str, int], adapter_share: float) -> dict[str, Any]:
    """The new content of dataset_info.json: what is there, with name_train and name_val.
    Raises DataError when it offers name_test for training, ConfigError when it has others' entries of these names."""
    path = join(out, DATASETS_FILE)
    entries = _json_object(path)
    test = visit_file("", "held_out").lstrip("/")
    named = [entry.get("file_name") for entry in entries.values() if isinstance(entry, dict)]
    if "name_test" in entries or test in named:
        raise DataError(f"{path}: lists {test}, which nothing may be trained on; take that entry out")
    for split in ("train", "tuning"):
        name = f"name_{VISIT_FILES[split]}"
        choices = [f"{name}.json", *([adapter_file("").lstrip("/")] if split == "train" else [])]
        if name in entries and entries.pop(name) not in [_entry(file) for file in choices]:
            why = f"its entry {name} is not what 'ckd export jsonl' writes"
            raise ConfigError(f"{path}: {why}; give another --out, or rename that entry")
        if labeled[split]:
            entries[name] = _entry(choices[-1] if adapter_share else choices[0])
    return entries


def _entry(file: str) -> dict[str, Any]:
    return {"file_name": file, "columns": dict(_COLUMNS)}


def _json_object(path: str) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no file. Raises DataError for anything else."""
    if not exists(path):
        return {}
    try:
        found = json.loads(read_bytes(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a JSON object; repair or delete it")
    return found


def _write_recipe(out: str, name: str, own: OwnFiles) -> tuple[str, bool]:
    """Write the YAML for the data folder `name` into it; returns its path, and if another was kept."""
    path = join(out, RECIPE_FILE)
    text = files("ckd.ehr").joinpath(RECIPE_FILE).read_text(encoding="utf-8")
    folder = name if name.isidentifier() else json.dumps(name)
    content = text.replace("dataset_dir: data\n", f"dataset_dir: {folder}\n").encode()
    if exists(path) and read_bytes(path) != content and not own.owns(RECIPE_FILE):
        return path, True
    write_bytes(path, content)
    return path, False


def _folder_name(out: str) -> str:
    """The last part of `out`. Raises ConfigError for a root."""
    name = Path(out).absolute().name if is_local(out) else out.rstrip("/").rpartition("/")[2]
    if not name:
        raise ConfigError(f"--out {out}: expected a folder of its own, such as data")
    return name
