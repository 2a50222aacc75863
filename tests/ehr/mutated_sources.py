"""The plain table sets that table_mutations.py writes otherwise: every kind of source, as {table: rows} of text."""

import polars as pl

from tests.ehr.ehr_tables import MIMIC3, MIMIC4, TABLES, admission, as_meds, as_mimic4, as_tables
from tests.ehr.related_tables import EICU, OMOP, as_eicu, as_omop, invented

EVENTS = {"events": "subject_id time code hadm_id insurance race"}
LAYOUTS = {"mimic3": MIMIC3, "mimic4": MIMIC4, "tables": TABLES, "omop": OMOP, "eicu": EICU, "meds": EVENTS}
OF_COLUMN = {
    **dict.fromkeys(["admittime", "dischtime", "startdate", "starttime", "dob", "start", "end", "time"], "time"),
    **dict.fromkeys(["visit_start_date", "visit_end_datetime", "visit_start_datetime", "death_date"], "time"),
    **dict.fromkeys(["hadm_id", "subject_id", "visit_id", "person_id", "visit_occurrence_id"], "id"),
    **dict.fromkeys(["patientunitstayid", "patienthealthsystemstayid", "uniquepid"], "id"),
    **dict.fromkeys(["hospital_expire_flag", "died", "newborn"], "flag"),
    **dict.fromkeys(["seq_num", "seq", "anchor_age", "anchor_year", "year_of_birth", "unitvisitnumber"], "number"),
    **dict.fromkeys(["hospitaladmitoffset", "hospitaldischargeoffset", "hospitaldischargeyear"], "number"),
    **dict.fromkeys(["drugstartoffset", "month_of_birth", "day_of_birth"], "number"),
    **dict.fromkeys(["visit_concept_id", "gender_concept_id", "condition_source_concept_id", "concept_id"], "concept"),
    **dict.fromkeys(["drug_concept_id", "procedure_source_concept_id", "race_concept_id"], "concept"),
    **dict.fromkeys(["icd9_code", "icd_code", "icd9code", "condition_source_value", "concept_code"], "code"),
    **dict.fromkeys(["ethnicity", "race", "insurance", "admission_type", "concept_name"], "name"),
    **dict.fromkeys(["icd_version", "version"], "version"),
    **dict.fromkeys(["hospitaldischargestatus", "drugordercancelled", "diagnosispriority", "vocabulary_id"], "word"),
    "gender": "sex", "sex": "sex", "age": "age",
    **dict.fromkeys(["drug", "drugname", "drug_source_value"], "drug"),
}  # fmt: skip


def kind_of_column(kind, column):
    """Which mutations a column can have; a MEDS event's code is one of its own."""
    return {"meds": {"code": "event"}, "tables": {"code": "code"}}.get(kind, {}).get(column) or OF_COLUMN.get(column)


def plain(kind):
    """{table: rows} of text: patients with several visits each, and all that a text and a label can have."""
    made = {"omop": lambda: as_omop(invented(5)), "eicu": lambda: as_eicu(invented(5))}.get(kind, lambda: _mimic(kind))
    return {name: [{k: str(v) for k, v in r.items() if v is not None} for r in rows] for name, rows in made().items()}


def _mimic(kind):
    """Eight patients with three visits each."""
    tables = {name: [] for name in MIMIC3}
    codes = ("5849", "0389", "4280", "42731", "4019", "25000", "41401", "486", "51881", "2724")
    drugs = ("Furosemide", "Insulin, human", "Zinc Sulfate", "NS", "Aspirin")
    for n in range(1, 9):
        tables["patients"].append({"subject_id": n, "gender": "FM"[n % 2], "dob": f"20{70 + n}-02-03 00:00:00"})
        for k, month in enumerate(("01", "04", "08")):
            visit = 7000 + 10 * n + k
            kinds = {"ethnicity": ("WHITE", "ASIAN")[(n + k) % 2], "insurance": ("Medicare", "Private")[n % 2]}
            tables["admissions"].append(
                admission(n, visit, f"2150-{month}-0{n} 09:30:00", f"2150-{month}-{10 + n} 12:30:00", **kinds)
            )
            key = {"subject_id": n, "hadm_id": visit}
            for j in range(1, 4):
                tables["diagnoses_icd"].append({**key, "seq_num": j, "icd9_code": codes[(3 * n + 2 * k + j) % 10]})
            for j in range(3):
                day, drug = f"2150-{month}-{1 + n + j:02d} 10:30:00", drugs[(n + k + 2 * j) % 5]
                tables["prescriptions"].append({**key, "startdate": day, "drug": drug})
            tables["procedures_icd"].append({**key, "seq_num": 1, "icd9_code": ("3995", "9671")[(n + k) % 2]})
    if kind == "meds":
        return {"events": as_meds(tables)}
    made = {"mimic3": lambda rows: rows, "mimic4": as_mimic4, "tables": as_tables}[kind](tables)
    if kind == "tables":
        made["visits"] = [{**row, "age": 60 + int(row["subject_id"])} for row in made["visits"]]
    return made


def write_shard(path, rows):
    """MEDS events as a shard whose columns are text."""
    path.parent.mkdir(parents=True)
    names = EVENTS["events"].split()
    frame = pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in names}, schema=dict.fromkeys(names, pl.String)
    )
    frame.write_parquet(path)
