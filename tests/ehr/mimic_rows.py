"""Next-visit rows from the open MIMIC-III demo, for tests only: they show that the pipeline runs on real codes and
dates, nothing about performance. Labels come from a few three-digit ICD-9 categories, not from the real mapping."""

import csv
import gzip
import json
import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from ckd.visits.grammar import render_input
from ckd.visits.labels import INSTRUCTION, encode, render_output

# Three-digit ICD-9 category -> label; enough for every demo label to have a few visits.
CATEGORIES = {
    "584": "Acute and unspecified renal failure",
    "410": "Acute myocardial infarction",
    "427": "Cardiac dysrhythmias",
    "585": "Chronic kidney disease",
    "996": "Complications of surgical/medical care",
    "428": "Congestive heart failure; nonhypertensive",
    "414": "Coronary atherosclerosis and related",
    "250": "Diabetes mellitus without complication",
    "272": "Disorders of lipid metabolism",
    "401": "Essential hypertension",
    "276": "Fluid and electrolyte disorders",
    "578": "Gastrointestinal hemorrhage",
    "403": "Hypertension with complications",
    "511": "Pleurisy; pneumothorax; pulmonary collapse",
    "486": "Pneumonia",
    "518": "Respiratory failure; insufficiency; arrest",
    "038": "Septicemia (except in labor)",
    "785": "Shock",
}


OPEN_DATA = Path(os.environ.get("CKD_OPEN_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def has_open_data():
    """Whether the open data is on this machine."""
    return (OPEN_DATA / "mimic3_demo").is_dir()


def open_data():
    """The folder of the open data, or a skip with the reason."""
    if not has_open_data():
        pytest.skip(f"open MIMIC-III demo not found at {OPEN_DATA}; set CKD_OPEN_DATA")
    return OPEN_DATA


def write_rows(target):
    """Write train.json and held_out.json (next-visit pairs, split by subject); returns the number of rows."""
    folder = open_data()
    titles = {
        row["code"]: row["title"] for row in csv.DictReader((folder / "icd9_categories.csv").open(encoding="utf-8"))
    }
    codes, drugs, procedures = (_by_visit(folder, name, column) for name, column in _TABLES)
    stays = defaultdict(list)
    for row in _table(folder, "ADMISSIONS"):
        stays[row["subject_id"]].append((row["admittime"], row["hadm_id"]))
    count = 0
    with (target / "train.json").open("w") as train, (target / "held_out.json").open("w") as held_out:
        for n, (subject, visits) in enumerate(sorted(item for item in stays.items() if len(item[1]) > 1)):
            ordered = [hadm for _, hadm in sorted(visits)]
            for now, following in pairwise(ordered):
                text = render_input(
                    [titles.get(c[:3], c[:3]) for c in codes[now]],
                    list(dict.fromkeys(drugs[now])),
                    [f"procedure {c}" for c in procedures[now]],
                    {},
                )
                row = {
                    "instruction": INSTRUCTION,
                    "input": text,
                    "output": render_output(_labels(codes[following])),
                    "subject_id": subject,
                }
                (held_out if n % 4 == 0 else train).write(json.dumps(row) + "\n")
                count += 1
    return count


_TABLES = (("DIAGNOSES_ICD", "icd9_code"), ("PRESCRIPTIONS", "drug"), ("PROCEDURES_ICD", "icd9_code"))


def _table(folder, name):
    with gzip.open(folder / "mimic3_demo" / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _by_visit(folder, name, column):
    found = defaultdict(list)
    for row in _table(folder, name):
        found[row["hadm_id"]].append(row[column])
    return found


def _labels(codes):
    return encode({CATEGORIES[c[:3]] for c in codes if c[:3] in CATEGORIES})


def demo_codes(name, column):
    with gzip.open(open_data() / name, "rt", encoding="utf-8", newline="") as file:
        return [(row[column], row.get("icd_version", "9")) for row in csv.DictReader(file)]
