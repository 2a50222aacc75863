"""Synthetic encounters as next-visit rows: text in the public grammar, Parquet with splits and true probabilities, public JSONL. What
happens to the patients belongs to synthetic; the ceiling on recorded codes to synthetic_ceiling."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from ckd.ehr.synthetic.ceiling import oracle_observed
from ckd.ehr.synthetic.patients import PARAMETERS, Encounters, generate, parameters
from ckd.store.artifacts import Fields, FolderArtifact
from ckd.store.files import digest, join, write_bytes, write_file
from ckd.visits.columns import lists
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES, INSTRUCTION, NUM_LABELS, render_output
from ckd.visits.visit import SPLITS, group_key, visit_schema

if TYPE_CHECKING:
    import pyarrow as pa

COHORT_FILE, CEILINGS_FILE = "cohort.parquet", "oracles.parquet"
FIRST_DAY = datetime(2100, 1, 1, tzinfo=UTC)


def write_cohort(
    folder: str, patients: int, seed: int, ceiling_patients: int = 0, include_last: bool = False
) -> FolderArtifact:
    """Write `<folder>/cohort.parquet` (a valid input of prepare) unless it is there already.

    With `ceiling_patients`, also `oracles.parquet` for the held_out rows: visit_id, oracle_latent, oracle_observed (fitted on that many
    patients of the parameter file's `ceiling` seed). Raises ArtifactError when the folder holds another cohort.
    """
    import pyarrow.parquet as pq

    fields: Fields = {
        "generator": 1,
        "parameters": digest(PARAMETERS.read_text(encoding="utf-8")),
        "patients": patients,
        "seed": seed,
        "ceiling_patients": ceiling_patients,
        "include_last": include_last,
    }
    artifact = FolderArtifact(folder, fields)
    if artifact.is_done():
        return artifact
    encounters = generate(patients, seed)
    cohort = table(encounters, include_last)
    write_file(join(folder, COHORT_FILE), lambda stream: pq.write_table(cohort, stream, compression="zstd"))
    files = [COHORT_FILE]
    if ceiling_patients:
        ceilings = _ceilings(encounters, ceiling_patients)
        write_file(join(folder, CEILINGS_FILE), lambda stream: pq.write_table(ceilings, stream, compression="zstd"))
        files.append(CEILINGS_FILE)
    artifact.commit(files, {"visits": cohort.num_rows})
    return artifact


def write_jsonl(folder: str, patients: int, seed: int) -> dict[str, int]:
    """Write the cohort in the public format: train as name_train.json, tuning and held_out as name_val.json. Returns rows per file.

    Rows carry visit_id and subject_id beside instruction, input and output.
    """
    encounters = generate(patients, seed)
    lines: dict[str, list[str]] = {"name_train.json": [], "name_val.json": []}
    for row in table(encounters).to_pylist():
        content = {name: row[name] for name in ("instruction", "input")} | {"output": render_output(row["labels"])}
        content |= {name: row[name] for name in ("visit_id", "subject_id")}
        lines["name_train.json" if row["split"] == "train" else "name_val.json"].append(json.dumps(content) + "\n")
    for name, rows in lines.items():
        write_bytes(join(folder, name), "".join(rows).encode())
    return {name: len(rows) for name, rows in lines.items()}


def table(encounters: Encounters, include_last: bool = False) -> "pa.Table":
    """One row per visit that has a next one: `visit_schema()` and `oracle_latent`, the true probability of each recorded label.

    `include_last` adds the patients' last visits that did not end in death, with null labels and null oracle_latent.
    """
    import pyarrow as pa

    has_next = encounters.has_next
    rows = np.flatnonzero(has_next | ~encounters.died if include_last else has_next)
    labeled = has_next[rows]
    following = np.minimum(rows + 1, len(has_next) - 1)
    subjects = [f"{encounters.seed}-{p:06d}" for p in encounters.patient[rows]]
    groups = {subject: group_key(subject, "") for subject in dict.fromkeys(subjects)}
    days = [(FIRST_DAY + timedelta(days=int(day))).isoformat() for day in encounters.day[rows]]
    columns: dict[str, Any] = {
        "visit_id": [f"{s}-{o:02d}" for s, o in zip(subjects, encounters.order[rows], strict=True)],
        "subject_id": subjects,
        "split": [SPLITS[s] for s in encounters.split[rows]],
        "instruction": [INSTRUCTION] * len(rows),
        "input": list(texts(encounters, rows)),
        "labels": lists(encounters.recorded[following, :NUM_LABELS], labeled),
        "current_labels": lists(encounters.recorded[rows, :NUM_LABELS]),
        "prediction_time": days,
        "age": [str(int(age)) for age in encounters.age[rows]],
        "sex": ["M" if male else "F" for male in encounters.male[rows]],
        "group": pa.array([groups[s] for s in subjects], pa.uint64()),
        "source": ["train"] * len(rows),
        "line": np.arange(1, len(rows) + 1),
    }
    schema = visit_schema()
    arrays = [columns[f.name] if f.name in columns else pa.nulls(len(rows), f.type) for f in schema]
    made = pa.table(
        [pa.array(a, f.type) if isinstance(a, list | np.ndarray) else a for a, f in zip(arrays, schema, strict=True)],
        schema=schema,
    )
    return made.append_column("oracle_latent", lists(encounters.probability[rows].astype(np.float32), labeled))


def texts(encounters: Encounters, rows: np.ndarray) -> Iterator[str]:
    """The `input` of each of those visits, in the public grammar. Order within a list and drug names are drawn with the cohort's seed."""
    model = parameters()
    rng = np.random.default_rng([encounters.seed, 1])
    titles = np.array([c.title for c in model.conditions], object)
    procedures = np.array(model.procedures, object)
    drugs_GS = np.array([[names[0], names[-1]] for names in model.drugs], object)
    patient_conditions = _shuffled(rng, encounters.recorded[rows])
    patient_drugs = _shuffled(rng, encounters.given[rows])
    patient_procedures = _shuffled(rng, encounters.done[rows])
    for row, now, used, done in zip(rows, patient_conditions, patient_drugs, patient_procedures, strict=True):
        named = dict(zip(used.tolist(), drugs_GS[used, rng.integers(0, 2, len(used))], strict=True))
        treatments = _treatments(encounters.recorded[row], named)
        yield render_input(list(dict.fromkeys(titles[now])), list(named.values()), list(procedures[done]), treatments)


def _treatments(recorded_C: np.ndarray, named: dict[int, str]) -> dict[str, list[str]]:
    """Per recorded label the drugs given that are ever given for it: fixed parameters, no outcome; labels without one are left out."""
    found = {
        DISEASES[k]: [named[g] for g in (2 * int(k), 2 * int(k) + 1) if g in named]
        for k in np.flatnonzero(recorded_C[:NUM_LABELS])
    }
    return {disease: names for disease, names in found.items() if names}


def _shuffled(rng: np.random.Generator, flags: np.ndarray) -> list[np.ndarray]:
    """Per row the indices of its true flags, in random order."""
    row, column = np.nonzero(flags)
    order = np.lexsort((rng.random(len(row)), row))
    return np.split(column[order], np.cumsum(flags.sum(1))[:-1])


def _ceilings(encounters: Encounters, patients: int) -> "pa.Table":
    import pyarrow as pa

    rows = np.flatnonzero(encounters.has_next & (encounters.split == SPLITS.index("held_out")))
    observed = oracle_observed(encounters, patients, parameters().raw["sizes"]["ceiling"]["seed"])[rows]
    ids = [
        f"{encounters.seed}-{p:06d}-{o:02d}"
        for p, o in zip(encounters.patient[rows], encounters.order[rows], strict=True)
    ]
    latent = encounters.probability[rows]
    columns = {
        "visit_id": ids,
        "oracle_latent": lists(latent.astype(np.float32)),
        "oracle_observed": lists(observed.astype(np.float32)),
    }
    return pa.table(columns)
