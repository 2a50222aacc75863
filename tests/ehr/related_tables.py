"""The same invented patients as generic tables, MIMIC-III, an OMOP CDM and eICU-CRD, for tests only.

A stay is a dict: visit, subject, start, end (text: a time, or a date alone), died, sex, born, race, codes and
procedures [(version, code)], drugs [(name, start)]. Rows of the folders are dicts by the source's own column names."""

import random
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.ehr.ehr_tables import admission, csv_bytes

CODES = [
    ("9", "5849"),
    ("9", "038.9"),
    ("9", "428.0"),
    ("9", "V45.81"),
    ("9", "25000"),
    ("10", "I50.9"),
    ("10", "N17.9"),
]
CODES += [("10", "E11.9"), ("10", "A41.9"), ("10", "Z95.1"), ("9", "E849.7"), ("9", "486")]
PROCEDURES = [("9", "3995"), ("9", "9671"), ("10", "0BH17EZ")]
DRUGS = ["Furosemide", "Insulin, human", 'Sodium "half" normal', "Heparin"]
RACES = {8527: "White", 8515: "Asian"}
GENDERS = {"M": 8507, "F": 8532}
OMOP = {
    "person": "person_id gender_concept_id year_of_birth month_of_birth day_of_birth birth_datetime race_concept_id "
    "gender_source_value race_source_value",
    "visit_occurrence": "visit_occurrence_id person_id visit_concept_id visit_start_date visit_start_datetime "
    "visit_end_date visit_end_datetime visit_type_concept_id",
    "condition_occurrence": "condition_occurrence_id person_id condition_concept_id condition_source_value "
    "condition_source_concept_id visit_occurrence_id",
    "drug_exposure": "drug_exposure_id person_id drug_concept_id drug_exposure_start_date drug_exposure_start_datetime "
    "drug_source_value visit_occurrence_id",
    "procedure_occurrence": "procedure_occurrence_id person_id procedure_source_concept_id visit_occurrence_id",
    "death": "person_id death_date death_datetime",
    "concept": "concept_id concept_name domain_id vocabulary_id concept_code",
    "concept_relationship": "concept_id_1 concept_id_2 relationship_id invalid_reason",
}
EICU = {
    "patient": "patientunitstayid patienthealthsystemstayid gender age ethnicity hospitalid hospitaladmitoffset "
    "hospitaldischargeyear hospitaldischargeoffset hospitaldischargestatus unitvisitnumber "
    "unitdischargestatus uniquepid",
    "diagnosis": "diagnosisid patientunitstayid diagnosisoffset icd9code diagnosispriority",
    "medication": "medicationid patientunitstayid drugstartoffset drugordercancelled drugname gtc",
}


def invented(seed, subjects=14):
    """Stays of patients who return, one per calendar year."""
    rng, stays = random.Random(seed), []
    for subject in rng.sample(range(100, 999), subjects):
        born = datetime.fromisoformat("1930-03-04") + timedelta(days=rng.randint(0, 20_000))
        person = {"subject": subject, "sex": rng.choice("FM"), "born": born, "race": rng.choice([*RACES.values()])}
        count = rng.randint(1, 5)
        for number in range(count):
            start = datetime.fromisoformat(f"{2010 + number}-04-01 07:00") + timedelta(hours=rng.randint(0, 2000))
            end = start + timedelta(hours=rng.choice([5, 30, 100, 300]))
            times = [str(time)[: 10 if rng.random() < 0.2 else 19] for time in (start, end)]
            drugs = [
                (drug, str(start + timedelta(hours=n))) for n, drug in enumerate(rng.sample(DRUGS, rng.randint(0, 3)))
            ]
            last = number + 1 == count
            stays.append(
                {
                    "visit": 1000 + len(stays),
                    **person,
                    "start": times[0],
                    "end": times[1],
                    "died": last and rng.random() < 0.2,
                }
                | {"codes": rng.sample(CODES, rng.randint(1, 5)), "drugs": drugs}
                | {"procedures": rng.sample(PROCEDURES, rng.randint(0, 2))}
            )
    return stays


def age(stay):
    return int((datetime.fromisoformat(stay["start"]) - stay["born"]) // timedelta(days=1) / 365.2425)


def as_generic(stays, admission_type=None):
    """Rows of the generic tables."""
    tables = {"visits": [], "diagnoses": [], "medications": [], "procedures": []}
    for s in stays:
        key = {"visit_id": s["visit"], "subject_id": s["subject"]}
        more = {"died": int(s["died"]), "age": age(s), "sex": s["sex"], "ethnicity": s["race"]}
        tables["visits"].append({**key, "start": s["start"], "end": s["end"], "admission_type": admission_type, **more})
        for name, codes in (("diagnoses", s["codes"]), ("procedures", s["procedures"])):
            tables[name] += [{**key, "code": code, "version": version} for version, code in codes]
        tables["medications"] += [{**key, "drug": drug, "start": start} for drug, start in s["drugs"]]
    return tables


def as_mimic3(stays):
    """Rows of MIMIC-III, with the codes of ICD-9 only."""
    tables = {"admissions": [], "patients": [], "diagnoses_icd": [], "prescriptions": [], "procedures_icd": []}
    for s in stays:
        key = {"subject_id": s["subject"], "hadm_id": s["visit"]}
        start, end = f"{s['start'][:10]} 07:00:00", f"{s['end'][:10]} 23:00:00"
        tables["admissions"].append(admission(*key.values(), start, end, hospital_expire_flag=int(s["died"])))
        for name, codes in (("diagnoses_icd", s["codes"]), ("procedures_icd", s["procedures"])):
            nine = [code.replace(".", "") for version, code in codes if version == "9"]
            tables[name] += [{**key, "seq_num": n, "icd9_code": code} for n, code in enumerate(nine, start=1)]
        tables["prescriptions"] += [{**key, "drug": drug, "startdate": at} for drug, at in s["drugs"]]
    people = {s["subject"]: {"gender": s["sex"], "dob": f"{s['born']:%Y-%m-%d} 00:00:00"} for s in stays}
    tables["patients"] = [{"subject_id": subject, **row} for subject, row in people.items()]
    return tables


def as_omop(stays):
    """Rows of an OMOP CDM with all concepts; ICD codes by source concept, by typed value and by value in turn; an
    outpatient visit with a condition and a drug in it after each stay."""
    names = {8507: "MALE", 8532: "FEMALE", **RACES, 9201: "Inpatient Visit", 9202: "Outpatient Visit", 0: "None such"}
    concept = [
        _concept(number, name, "None" if number == 0 else "Visit", str(number)) for number, name in names.items()
    ]
    number = {("drug", drug): 5000 + n for n, drug in enumerate(DRUGS)}
    concept += [_concept(number["drug", drug], drug, "RxNorm", str(n)) for n, drug in enumerate(DRUGS)]
    for kind, codes, vocabularies in (
        ("codes", CODES, ("ICD9CM", "ICD10CM")),
        ("procedures", PROCEDURES, ("ICD9Proc", "ICD10PCS")),
    ):
        for n, (version, code) in enumerate(codes):
            number[kind, code] = (6000 if kind == "codes" else 7000) + n
            concept.append(_concept(number[kind, code], f"name of {code}", vocabularies[version == "10"], code))
    tables = {"concept": concept, "concept_relationship": [], "death": [], "person": {}}
    tables |= {
        name: [] for name in ("visit_occurrence", "condition_occurrence", "drug_exposure", "procedure_occurrence")
    }
    for s in stays:
        _add_stay(tables, number, s)
    return {**tables, "person": list(tables["person"].values())}


def as_eicu(stays):
    """Rows of eICU-CRD: every second hospital stay is two unit stays; the codes of a cell in one or both editions."""
    tables = {name: [] for name in EICU}
    for s in stays:
        start, end = (datetime.fromisoformat(s[name]) for name in ("start", "end"))
        end = max(start, end)
        for number in range(1, 2 + s["visit"] % 2):
            unit, into = 10 * s["visit"] + number, 45 * number  # minutes from admission to this unit stay
            discharge = int((end - start).total_seconds()) // 60 - into
            tables["patient"].append(
                {"patientunitstayid": unit, "patienthealthsystemstayid": s["visit"], "uniquepid": f"002-{s['subject']}"}
                | {"gender": {"F": "Female", "M": "Male"}[s["sex"]], "age": age(s) if age(s) < 90 else "> 89"}
                | {"ethnicity": s["race"], "hospitalid": 7, "hospitaladmitoffset": -into, "unitvisitnumber": number}
                | {"hospitaldischargeoffset": discharge, "hospitaldischargeyear": end.year}
                | {"hospitaldischargestatus": "Expired" if s["died"] else "Alive"}
            )
        for n, (_, code) in enumerate(s["codes"]):
            row = {"diagnosisid": len(tables["diagnosis"]), "patientunitstayid": unit if n % 2 else 10 * s["visit"] + 1}
            priority = "Primary" if n == 0 else "Major"
            tables["diagnosis"].append({**row, "diagnosisoffset": 3, "icd9code": code, "diagnosispriority": priority})
        for drug, begun in s["drugs"]:
            offset = int((datetime.fromisoformat(begun) - start).total_seconds()) // 60 - into
            row = {
                "patientunitstayid": unit,
                "drugstartoffset": offset,
                "drugname": drug,
                "drugordercancelled": "No",
                "gtc": 0,
            }
            tables["medication"] += [row, {**row, "drugname": "Never given", "drugordercancelled": "Yes"}]
    return tables


def write_related(folder, tables, columns, *, suffix=".csv", upper=False, tabs=()):
    """`tables` as CSV or Parquet with these `columns` (OMOP, EICU); those in `tabs` as Athena writes them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        names = columns[name].split()
        path = folder / f"{name.upper() if upper else name}{suffix}"
        if name in tabs:
            lines = ["\t".join(names), *("\t".join(str(row.get(n, "")) for n in names) for row in rows)]
            path.with_suffix(".csv").write_text("\n".join(lines) + "\n")
        elif suffix == ".parquet":
            pq.write_table(_typed(names, rows), path)
        else:
            path.write_bytes(csv_bytes(names, rows, upper=upper))
    return folder


def _typed(names, rows):
    """As databases export them: numbers, dates and timestamps."""
    columns = {}
    for name in names:
        cells = [None if row.get(name) in ("", None) else row[name] for row in rows]
        if name.endswith(("_date", "_datetime")):
            kind = pa.date32() if name.endswith("_date") else pa.timestamp("us")
            cells = [cell and datetime.fromisoformat(cell) for cell in cells]
            columns[name] = pa.array(cells, pa.timestamp("us")).cast(kind)
        else:
            columns[name] = pa.array(cells) if any(cell is not None for cell in cells) else pa.array(cells, pa.string())
    return pa.table(columns)


def _concept(number, name, vocabulary, code):
    domain = "Visit" if vocabulary == "Visit" else "Other"
    return {
        "concept_id": number,
        "concept_name": name,
        "domain_id": domain,
        "vocabulary_id": vocabulary,
        "concept_code": code,
    }


def _times(name, text):
    return {f"{name}_date": text[:10], f"{name}_datetime": text if len(text) > 10 else ""}


def _add_stay(tables, number, s):
    key = {"visit_occurrence_id": s["visit"], "person_id": s["subject"]}
    other = {**key, "visit_occurrence_id": 90_000 + s["visit"]}
    born = {"year_of_birth": s["born"].year, "month_of_birth": s["born"].month, "day_of_birth": s["born"].day}
    race = next(n for n, name in RACES.items() if name == s["race"])
    tables["person"][s["subject"]] = {"person_id": s["subject"], "gender_concept_id": GENDERS[s["sex"]], **born} | {
        "race_concept_id": race,
        "gender_source_value": "?",
        "race_source_value": "?",
    }
    times = {**_times("visit_start", s["start"]), **_times("visit_end", s["end"])}
    tables["visit_occurrence"] += [
        {**key, "visit_concept_id": 9201, **times, "visit_type_concept_id": 32817},
        {**other, "visit_concept_id": 9202, **times, "visit_type_concept_id": 32817},
    ]
    for n, (version, code) in enumerate(s["codes"]):
        by_concept = {"condition_source_concept_id": number["codes", code], "condition_source_value": "local words"}
        typed = {"condition_source_concept_id": 0, "condition_source_value": f"ICD{version}CM:{code}"}
        alone = {"condition_source_concept_id": "", "condition_source_value": code}
        tables["condition_occurrence"].append({**key, "condition_concept_id": 0, **(by_concept, typed, alone)[n % 3]})
    tables["condition_occurrence"].append({**other, "condition_concept_id": 0, **typed_elsewhere()})
    for n, (drug, start) in enumerate(s["drugs"]):
        named = {
            "drug_concept_id": 0 if n % 2 else number["drug", drug],
            "drug_source_value": drug if n % 2 else "local",
        }
        tables["drug_exposure"].append({**key, **named, **_times("drug_exposure_start", start)})
    tables["procedure_occurrence"] += [
        {**key, "procedure_source_concept_id": number["procedures", code]} for _, code in s["procedures"]
    ]
    if s["died"]:
        tables["death"].append({"person_id": s["subject"], "death_date": s["end"][:10]})


def typed_elsewhere():
    """A condition that belongs to no hospital stay: with it labels would differ."""
    return {"condition_source_concept_id": 0, "condition_source_value": "ICD10CM:K92.2"}
