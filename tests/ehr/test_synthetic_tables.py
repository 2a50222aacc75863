import csv
import gzip
import hashlib
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from ckd.ehr.codes import Codes
from ckd.ehr.synthetic import tables as synthetic_tables
from ckd.ehr.synthetic.patients import generate, parameters
from ckd.ehr.synthetic.rows import texts
from ckd.errors import ConfigError
from ckd.visits.labels import DISEASES, NUM_LABELS

NAMES = ("ADMISSIONS", "PATIENTS", "DIAGNOSES_ICD", "PROCEDURES_ICD", "PRESCRIPTIONS")
PATIENTS, SEED = 120, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("synth")
    synthetic_tables.write_tables(str(target), PATIENTS, SEED)
    return target


def _rows(folder, name):
    with gzip.open(folder / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _bytes(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _labels(codes):
    distinct = sorted(codes)
    found = Codes().diagnoses(pl.DataFrame({"code": distinct, "version": ["9"] * len(distinct)}))
    assert found["mapped"].all()
    return dict(zip(distinct, found["label"], strict=True))


def test_the_cohort_of_the_demo_is_the_same_as_before_tables_were_made_of_it():
    # Digests taken before the section `tables` and the procedures' codes came into the parameter file.
    encounters = generate(50, 5)
    text = "\n".join(texts(encounters, np.arange(len(encounters.patient))))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "31870a8d2f6cfb3ad6e736179ca89b66f636016a4f18bdf5282f574e92c2b7aa"
    )
    flags = np.packbits(np.hstack([encounters.recorded, encounters.given, encounters.done])).tobytes()
    assert hashlib.sha256(flags).hexdigest() == "59e5e0ee4261e61e913d7553a1391b0829ab0ceb80139f429ec2e84869340f10"


def test_every_condition_s_code_gives_its_label_and_every_other_code_none():
    conditions, tables = parameters().conditions, parameters().raw["tables"]
    labels = _labels([c.code for c in conditions] + list(tables["diagnoses"]))
    assert [labels[c.code] for c in conditions] == [
        None if c.label is None else DISEASES.index(c.label) for c in conditions
    ]
    assert len({c.code for c in conditions} | set(tables["diagnoses"])) == len(conditions) + len(tables["diagnoses"])
    assert all(labels[code] is None for code in tables["diagnoses"])


def test_every_procedure_code_is_a_real_one_and_its_own():
    codes = [p["code"] for p in parameters().raw["procedures"]] + list(parameters().raw["tables"]["procedures"])
    found = Codes().procedures(pl.DataFrame({"code": codes, "version": ["9"] * len(codes)}))
    assert found["title"].null_count() == 0 and len(set(codes)) == len(codes)


def test_background_drugs_are_none_that_a_condition_gets():
    assert not {name for names in parameters().drugs for name in names} & set(parameters().raw["tables"]["drugs"])


def test_codes_of_the_tables_give_back_the_labels_that_were_recorded(folder):
    encounters = generate(PATIENTS, SEED)
    codes = defaultdict(set)
    for row in _rows(folder, "DIAGNOSES_ICD"):
        codes[row["HADM_ID"]].add(row["ICD9_CODE"])
    label = _labels(set().union(*codes.values()))
    admissions = _rows(folder, "ADMISSIONS")
    assert len(admissions) == len(encounters.patient)
    for row, recorded, subject, died in zip(
        admissions, encounters.recorded, encounters.patient, encounters.died, strict=True
    ):
        found = {label[code] for code in codes[row["HADM_ID"]]} - {None}
        assert found == set(np.flatnonzero(recorded[:NUM_LABELS]))
        assert (int(row["SUBJECT_ID"]), row["HOSPITAL_EXPIRE_FLAG"]) == (subject + 1, str(int(died)))


def test_procedures_and_drugs_of_the_tables_are_those_done_and_given_and_background(folder):
    encounters, raw = generate(PATIENTS, SEED), parameters().raw
    visits = {row["HADM_ID"]: i for i, row in enumerate(_rows(folder, "ADMISSIONS"))}
    codes = [p["code"] for p in raw["procedures"]]
    done = {(visits[r["HADM_ID"]], r["ICD9_CODE"]) for r in _rows(folder, "PROCEDURES_ICD")}
    assert {(v, c) for v, c in done if c in codes} == {(int(v), codes[p]) for v, p in np.argwhere(encounters.done)}
    drug = {name: g for g, names in enumerate(parameters().drugs) for name in names}
    orders = Counter((visits[r["HADM_ID"]], r["DRUG"]) for r in _rows(folder, "PRESCRIPTIONS"))
    given = {(v, drug[name]) for v, name in orders if name in drug}
    assert given == {(int(v), int(g)) for v, g in np.argwhere(encounters.given)}
    assert {name for _, name in orders} - set(drug) <= set(raw["tables"]["drugs"]) and max(orders.values()) > 1


def test_tables_have_the_columns_of_mimic3_and_unique_numbers(folder):
    for name in NAMES:
        rows = _rows(folder, name)
        assert list(rows[0]) == synthetic_tables._COLUMNS[name].split()
        assert [row["ROW_ID"] for row in rows] == [str(n + 1) for n in range(len(rows))]
    assert len({row["HADM_ID"] for row in _rows(folder, "ADMISSIONS")}) == len(_rows(folder, "ADMISSIONS"))
    assert len({row["SUBJECT_ID"] for row in _rows(folder, "PATIENTS")}) == PATIENTS
    sequences = defaultdict(list)
    for row in _rows(folder, "DIAGNOSES_ICD"):
        sequences[row["HADM_ID"]].append(int(row["SEQ_NUM"]))
    assert all(found == list(range(1, len(found) + 1)) for found in sequences.values())
    assert (
        "CC0-1.0" in (folder / "LICENSE.txt").read_text()
        and "no row describes a real person" in (folder / "LICENSE.txt").read_text()
    )


def test_stays_end_after_they_begin_and_few_overlap_and_death_ends_the_last(folder):
    stays, time = defaultdict(list), datetime.fromisoformat
    for row in _rows(folder, "ADMISSIONS"):
        stays[row["SUBJECT_ID"]].append((time(row["ADMITTIME"]), time(row["DISCHTIME"]), row["DEATHTIME"]))
    patients = {row["SUBJECT_ID"]: row for row in _rows(folder, "PATIENTS")}
    overlaps = 0
    for subject, visits in stays.items():
        assert visits == sorted(visits)
        overlaps += sum(after[0] <= before[1] for before, after in pairwise(visits))
        assert all(start < end for start, end, _ in visits)
        assert all(not death for *_, death in visits[:-1])
        died = visits[-1][2]
        assert patients[subject]["EXPIRE_FLAG"] == str(int(bool(died)))
        assert patients[subject]["DOD"][:10] == died[:10] and (not died or time(died) == visits[-1][1])
    assert overlaps < 0.03 * sum(map(len, stays.values()))


def test_births_give_the_ages_back_and_those_over_89_are_out_of_reach(folder):
    encounters = generate(PATIENTS, SEED)
    first = {}
    for row in _rows(folder, "ADMISSIONS"):
        first.setdefault(row["SUBJECT_ID"], datetime.fromisoformat(row["ADMITTIME"]))
    ages = encounters.age[encounters.order == 0]
    for row, age in zip(_rows(folder, "PATIENTS"), ages, strict=True):
        years = (first[row["SUBJECT_ID"]] - datetime.fromisoformat(row["DOB"])).days / 365.25
        assert years > 299 if age >= 89 else abs(years - age) < 0.01


def test_equal_seeds_give_equal_bytes_and_another_seed_others(folder, tmp_path):
    for name, seed in (("same", SEED), ("other", SEED + 1)):
        synthetic_tables.write_tables(str(tmp_path / name), PATIENTS, seed)
    assert _bytes(tmp_path / "same") == _bytes(folder)
    other = _bytes(tmp_path / "other")
    assert all(other[f"{name}.csv.gz"] != _bytes(folder)[f"{name}.csv.gz"] for name in NAMES)


def test_chunks_number_on_and_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_tables, "CHUNK", 40)
    heard = []
    rows = synthetic_tables.write_tables(str(tmp_path / "t"), 100, SEED, heard.append)
    first, second, third = synthetic_tables.chunks(100, SEED)
    assert np.array_equal(first.recorded, generate(40, SEED).recorded) and len(np.unique(third.patient)) == 20
    assert not np.array_equal(first.recorded[:20], second.recorded[:20])
    assert heard == [len(e.patient) for e in (first, second, third)] and rows["ADMISSIONS"] == sum(heard)
    assert [row["SUBJECT_ID"] for row in _rows(tmp_path / "t", "PATIENTS")] == [str(n + 1) for n in range(100)]
    admissions = _rows(tmp_path / "t", "ADMISSIONS")
    assert [int(row["HADM_ID"]) for row in admissions] == list(range(100_001, 100_001 + sum(heard)))
    assert len(_rows(tmp_path / "t", "DIAGNOSES_ICD")) == rows["DIAGNOSES_ICD"]


def test_rows_per_visit_are_those_of_real_tables(folder):
    visits = len(_rows(folder, "ADMISSIONS"))
    for name, expected in (("DIAGNOSES_ICD", 9), ("PRESCRIPTIONS", 20), ("PROCEDURES_ICD", 3)):
        assert len(_rows(folder, name)) / visits == pytest.approx(expected, rel=0.12)


def test_tables_that_are_there_are_kept_and_others_never_written_over(folder, tmp_path):
    before = _bytes(folder)
    assert synthetic_tables.write_tables(str(folder), PATIENTS, SEED)["PATIENTS"] == PATIENTS
    with pytest.raises(ConfigError, match="holds other tables"):
        synthetic_tables.write_tables(str(folder), PATIENTS, SEED + 1)
    assert _bytes(folder) == before
    (tmp_path / "PATIENTS.csv.gz").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="give another --out"):
        synthetic_tables.write_tables(str(tmp_path), 3, 0)
    assert _bytes(tmp_path) == {"PATIENTS.csv.gz": b"mine"}
    with pytest.raises(ConfigError, match="expected 1 or more"):
        synthetic_tables.write_tables(str(tmp_path / "none"), 0, 0)


def test_a_failure_leaves_nothing_behind(tmp_path):
    class DiskFullError(Exception):
        pass

    def fail(visits):
        raise DiskFullError

    with pytest.raises(DiskFullError):
        synthetic_tables.write_tables(str(tmp_path), 3, 0, fail)
    assert list(tmp_path.iterdir()) == []
