"""Synthetic encounters as next-visit rows: text in the public grammar, Parquet with splits and true probabilities."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ckd.ehr.synthetic.ceiling import oracle_observed
from ckd.ehr.synthetic.patients import Encounters, generate, generator_fields, parameters
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import join, write_file
from ckd.visits.columns import lists
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES, INSTRUCTION, NUM_LABELS
from ckd.visits.visit import SPLITS, group_key, visit_schema

if TYPE_CHECKING:
    import pyarrow as pa

COHORT_FILE, CEILINGS_FILE = "cohort.parquet", "oracles.parquet"
FIRST_DAY = datetime(2100, 1, 1, tzinfo=UTC)


def write_cohort(folder: str, patients: int, seed: int, ceiling_patients: int = 0) -> FolderArtifact:
    """Write `<folder>/cohort.parquet` (a valid input of prepare) unless it is there already.

    With `ceiling_patients`, also `oracles.parquet` for the held_out rows: visit_id, oracle_latent, oracle_observed
    (fitted on that many patients of the parameter file's `ceiling` seed). Raises ArtifactError when the folder holds
    another cohort.
    """
    import pyarrow.parquet as pq

    fields = {**generator_fields(patients, seed), "ceiling_patients": ceiling_patients, "include_last": False}
    artifact = FolderArtifact(folder, fields)
    if artifact.is_done():
        return artifact
    encounters = generate(patients, seed)
    written = {COHORT_FILE: table(encounters)}
    if ceiling_patients:
        written[CEILINGS_FILE] = _ceilings(encounters, ceiling_patients)
    for name, rows in written.items():
        write_file(join(folder, name), partial(pq.write_table, rows, compression="zstd"))
    artifact.commit(list(written), {"visits": written[COHORT_FILE].num_rows})
    return artifact


def table(encounters: Encounters, include_last: bool = False) -> "pa.Table":
    """One row per visit that has a next one: `visit_schema()` and `oracle_latent`, each recorded label's probability.
    `include_last` adds the patients' last visits that did not end in death, with null labels and null oracle_latent."""
    import pyarrow as pa

    has_next = encounters.has_next
    rows = np.flatnonzero(has_next | ~encounters.died if include_last else has_next)
    labeled = has_next[rows]
    following = np.minimum(rows + 1, len(has_next) - 1)
    subjects, visits = _ids(encounters, rows)
    groups = {subject: group_key(subject, "") for subject in dict.fromkeys(subjects)}
    days = [(FIRST_DAY + timedelta(days=int(day))).isoformat() for day in encounters.day[rows]]
    columns: dict[str, Any] = {
        "visit_id": visits,
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
    schema = visit_schema(NUM_LABELS)
    arrays = ((f, columns[f.name] if f.name in columns else pa.nulls(len(rows), f.type)) for f in schema)
    typed = [pa.array(values, f.type) if isinstance(values, list | np.ndarray) else values for f, values in arrays]
    made = pa.table(typed, schema=schema)
    return made.append_column("oracle_latent", lists(encounters.probability[rows].astype(np.float32), labeled))


def texts(encounters: Encounters, rows: np.ndarray) -> Iterator[str]:
    """The `input` of each of those visits, in the public grammar.
    The order within a list and the drug names are drawn with the cohort's seed."""
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
    """Per recorded label the drugs given that are ever given for it: by fixed parameters, by no outcome."""
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
    ceilings = {"oracle_latent": encounters.probability[rows], "oracle_observed": observed}
    columns = {name: lists(values.astype(np.float32)) for name, values in ceilings.items()}
    return pa.table({"visit_id": _ids(encounters, rows)[1], **columns})


def _ids(encounters: Encounters, rows: np.ndarray) -> tuple[list[str], list[str]]:
    """Subject ids and visit ids."""
    subjects = [f"{encounters.seed}-{p:06d}" for p in encounters.patient[rows]]
    return subjects, [f"{s}-{o:02d}" for s, o in zip(subjects, encounters.order[rows], strict=True)]
