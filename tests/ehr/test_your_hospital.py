"""docs/your_hospital.md as it stands there, on an invented German hospital."""

import csv
import json
import random
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.ehr.ingest_reference import ingest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your_hospital.md"
CODES = (
    "I50.14",
    "I10.00",
    "E11.90",
    "N18.3",
    "J44.19",
    "I48.0",
    "J18.9",
    "A41.9!",
    "N17.9",
    "E78.5",
    "I25.13",
    "I21.4",
)
DRUGS = ("Ramipril 5 mg", "Furosemid", "Insulin glargin", "Metamizol", "Acetylsalicylsäure")
OPERATIONS = (("5-377.1", "Schrittmacher"), ("8-854.2", "Hämodialyse"))
TIME = "%d.%m.%Y %H:%M"
HEADS = {
    "faelle": "Fallnummer Patient Aufnahme Entlassung Entlassungsgrund Alter Geschlecht Kasse Aufnahmeart Abteilung",
    "diagnosen": "Fallnummer Rang ICD",
    "medikamente": "Fallnummer Gabe Wirkstoff",
    "prozeduren": "Fallnummer OPS Bezeichnung",
}


def hospital(rng, patients):
    """The dump's four lists."""
    cases, diagnoses, drugs, operations = [], [], [], []
    for patient in range(patients):
        start, usual = (
            datetime.fromisoformat("2015-01-01T08:00:00") + timedelta(days=rng.randrange(900)),
            rng.sample(CODES, 3),
        )
        for _ in range(rng.randint(1, 4)):
            number, end = f"{len(cases) + 1:08d}", start + timedelta(days=rng.randint(2, 14))
            age = rng.choice(["63", "95 J.", "> 89", ""])
            kind = (
                "Tod" if rng.random() < 0.02 else "regulär",
                age,
                rng.choice("mw"),
                rng.choice(["AOK", ""]),
                "Notfall",
                ("Innere", "Chirurgie", "")[patient % 3],
            )
            cases.append((number, f"P{patient:04d}", start.strftime(TIME), end.strftime(TIME), *kind))
            diagnoses += [(number, rank, code) for rank, code in enumerate([*usual[:2], rng.choice(CODES)], start=1)]
            drugs += [(number, start.strftime(TIME), drug) for drug in rng.sample(DRUGS, 2)]
            operations += [(number, *rng.choice(OPERATIONS))] if rng.random() < 0.3 else []
            start = end + timedelta(days=rng.randint(20, 300))
    return cases, diagnoses, drugs, operations


@pytest.fixture
def dump(tmp_path, monkeypatch):
    made = dict(zip(HEADS, hospital(random.Random(5), 80), strict=True))
    (tmp_path / "dump").mkdir()
    (tmp_path / "tables").mkdir()
    for name, head in HEADS.items():
        with (tmp_path / "dump" / f"{name}.csv").open("w", encoding="cp1252", newline="") as file:
            csv.writer(file, delimiter=";").writerows([head.split(), *made[name]])
    monkeypatch.chdir(tmp_path)
    return made


def script():
    return re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)[1]


def test_the_page_s_script_makes_a_cohort_of_a_german_dump(dump, tmp_path):
    exec(compile(script(), str(PAGE), "exec"), {})
    settings = ("ingest.min_support=2", "ingest.subgroups=department")
    rows = ingest(tmp_path / "tables", tmp_path / "cohort", *settings, kind="tables")
    cases = {case[0]: case for case in dump["faelle"]}
    assert len(rows) > 100 and set(rows) <= set(cases)
    for visit, row in rows.items():
        case = cases[visit]
        assert row["subject_id"] == case[1] and row["sex"] == {"m": "M", "w": "F"}[case[6]]
        assert row["age"] == {"63": "63", "95 J.": "90", "> 89": "90", "": None}[case[5]]
        assert row["department"] == (case[-1] or None)
        assert all(drug in row["input"] for number, _, drug in dump["medikamente"] if number == visit)
        assert all(title in row["input"] for number, _, title in dump["prozeduren"] if number == visit)
        predicted = datetime.fromisoformat(row["prediction_time"])
        assert (predicted - timedelta(days=3)).strftime(TIME) == case[3]
    card = json.loads((tmp_path / "cohort" / "card.json").read_text())
    assert card["unmapped_codes"]["diagnosis"]["share"] == 0
    heart = [visit for visit, row in rows.items() if row["current_labels"][8]]
    assert set(heart) == {number for number, _, code in dump["diagnosen"] if code == "I50.14" and number in rows}
