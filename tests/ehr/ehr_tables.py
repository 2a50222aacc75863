"""Small MIMIC-III, MIMIC-IV, generic and MEDS folders from plain Python rows, for tests only.

Every row is a dict by the source's own lower-case column names; columns that are left out stay empty. A table that is
not given is written with its header only; `without=("prescriptions",)` leaves a file out."""

import csv
import gzip
import io
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MIMIC3 = {
    "admissions": "row_id subject_id hadm_id admittime dischtime deathtime admission_type admission_location "
    "discharge_location insurance language religion marital_status ethnicity edregtime edouttime diagnosis "
    "hospital_expire_flag has_chartevents_data",
    "patients": "row_id subject_id gender dob dod dod_hosp dod_ssn expire_flag",
    "diagnoses_icd": "row_id subject_id hadm_id seq_num icd9_code",
    "prescriptions": "row_id subject_id hadm_id icustay_id startdate enddate drug_type drug drug_name_poe route",
    "procedures_icd": "row_id subject_id hadm_id seq_num icd9_code",
}
MIMIC3_TITLES = {
    "d_icd_diagnoses": "row_id icd9_code short_title long_title",
    "d_icd_procedures": "row_id icd9_code short_title long_title",
}
MIMIC4 = {
    "admissions": "subject_id hadm_id admittime dischtime deathtime admission_type admit_provider_id "
    "admission_location discharge_location insurance language marital_status race edregtime edouttime "
    "hospital_expire_flag",
    "patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "prescriptions": "subject_id hadm_id pharmacy_id starttime stoptime drug_type drug route",
    "procedures_icd": "subject_id hadm_id seq_num chartdate icd_code icd_version",
}
MIMIC4_TITLES = {
    "d_icd_diagnoses": "icd_code icd_version long_title",
    "d_icd_procedures": "icd_code icd_version long_title",
}
TABLES = {
    "visits": "visit_id subject_id start end died newborn age sex ethnicity insurance admission_type",
    "diagnoses": "visit_id subject_id seq code version title",
    "medications": "visit_id subject_id start drug",
    "procedures": "visit_id subject_id seq code version title",
}
MEDS_COLUMNS = {
    "subject_id": pa.int64(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float32(),
    "hadm_id": pa.int64(),
    "insurance": pa.string(),
    "race": pa.string(),
}
# Last columns that are never empty in real data: an empty last cell makes the reader look closer.
_LAST = {
    "admissions": ("has_chartevents_data", "1"),
    "patients": ("expire_flag", "0"),
    "prescriptions": ("route", "PO"),
}


def write_mimic3(folder, tables, *, gz=False, upper=True, without=(), columns=None):
    """PATIENTS.csv … of `tables` ({"admissions": [row, …], …}); d_icd_* only where given. Returns the folder."""
    return _write_csv_tables(Path(folder), MIMIC3, MIMIC3_TITLES, tables, gz, upper, without, columns)


def write_mimic4(folder, tables, *, gz=True, upper=False, without=(), columns=None, hosp=True):
    """hosp/admissions.csv.gz … (hosp=False: in the folder itself). Returns the folder for `ckd ingest mimic4`."""
    _write_csv_tables(
        Path(folder) / "hosp" if hosp else Path(folder), MIMIC4, MIMIC4_TITLES, tables, gz, upper, without, columns
    )
    return Path(folder)


def write_tables(folder, tables, *, suffix=".csv", without=(), columns=None):
    """The generic tables as .csv, .csv.gz or .parquet, which keeps the cells' Python types. Returns the folder."""
    folder = Path(folder)
    if suffix != ".parquet":
        return _write_csv_tables(folder, TABLES, {}, tables, suffix.endswith(".gz"), False, without, columns)
    folder.mkdir(parents=True, exist_ok=True)
    for name, standard in TABLES.items():
        if name not in without:
            names = (columns or {}).get(name, standard).split()
            rows = tables.get(name, [])
            arrays = [pa.array([row.get(column) for row in rows]) for column in names]
            arrays = [array.cast(pa.string()) if pa.types.is_null(array.type) else array for array in arrays]
            pq.write_table(pa.table(arrays, names=names), folder / f"{name}.parquet")
    return folder


def write_meds(folder, events, *, shards=1, columns=None, codes=()):
    """data/train/0.parquet … of MEDS `events` ({"subject_id", "time": datetime|None, "code", "hadm_id", …}).

    Whole subjects in shards; `codes` are (code, description) rows of metadata/codes.parquet. Returns the folder."""
    folder = Path(folder)
    (folder / "data" / "train").mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, kind) for name, kind in MEDS_COLUMNS.items() if columns is None or name in columns])
    for shard in range(shards):
        rows = [
            {name: event.get(name) for name in schema.names}
            for event in events
            if event["subject_id"] % shards == shard
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "data" / "train" / f"{shard}.parquet")
    if codes:
        (folder / "metadata").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"code": [c for c, _ in codes], "description": [d for _, d in codes]}),
            folder / "metadata" / "codes.parquet",
        )
    return folder


def with_prescriptions(folder, lines, name="prescriptions.csv", pack=None, **options):
    """A MIMIC-III folder whose prescriptions are these lines (bytes) after a header of ten columns."""
    write_mimic3(folder, small_mimic3(), upper=False, without=("prescriptions",), **options)
    header = b"row_id,subject_id,hadm_id,icustay_id,startdate,enddate,drug_type,drug,drug_name_poe,route\n"
    data = header + b"".join(lines)
    (folder / name).write_bytes(pack(data) if pack else data)
    return folder


def prescription(number, drug=b"Zebra", route=b"PO"):
    return b"%d,1,11,,2150-01-01 00:00:00,,MAIN,%s,,%s\n" % (number, drug, route)


def small_mimic3():
    """Two subjects, three admissions, every table with rows: subject 1 returns, subject 2 dies in hospital."""
    return {
        "admissions": [
            admission(1, 11, "2150-01-01 10:00:00", "2150-01-05 12:00:00"),
            admission(1, 12, "2150-03-01 10:00:00", "2150-03-04 09:30:00", admission_type="URGENT", ethnicity="ASIAN"),
            admission(
                2,
                21,
                "2149-06-01 00:00:00",
                "2149-06-02 08:00:00",
                deathtime="2149-06-02 08:00:00",
                hospital_expire_flag=1,
            ),
        ],
        "patients": [
            {"subject_id": 1, "gender": "F", "dob": "2080-02-03 00:00:00"},
            {"subject_id": 2, "gender": "M", "dob": "2060-07-08 00:00:00"},
        ],
        "diagnoses_icd": [
            {"subject_id": 1, "hadm_id": 11, "seq_num": 1, "icd9_code": "5849"},
            {"subject_id": 1, "hadm_id": 11, "seq_num": 2, "icd9_code": "0389"},
            {"subject_id": 1, "hadm_id": 12, "seq_num": 1, "icd9_code": "E8497"},
            {"subject_id": 2, "hadm_id": 21, "seq_num": 1, "icd9_code": "42731"},
        ],
        "prescriptions": [
            {"subject_id": 1, "hadm_id": 11, "startdate": "2150-01-01 00:00:00", "drug": "Furosemide"},
            {"subject_id": 1, "hadm_id": 11, "startdate": "2150-01-02 00:00:00", "drug": "Insulin, human"},
            {"subject_id": 2, "hadm_id": 21, "startdate": "", "drug": "Heparin"},
        ],
        "procedures_icd": [{"subject_id": 1, "hadm_id": 11, "seq_num": 1, "icd9_code": "3995"}],
    }


def admission(subject, visit, start, end, **more):
    """A MIMIC-III row of admissions with the usual values."""
    usual = {"admission_type": "EMERGENCY", "insurance": "Medicare", "ethnicity": "WHITE", "hospital_expire_flag": 0}
    return {"subject_id": subject, "hadm_id": visit, "admittime": start, "dischtime": end, **usual, **more}


def as_mimic4(tables):
    """The rows of a MIMIC-III table set under MIMIC-IV's column names (all codes ICD-9)."""
    renamed = {"ethnicity": "race", "icd9_code": "icd_code", "startdate": "starttime"}
    result = {name: [{renamed.get(k, k): v for k, v in row.items()} for row in rows] for name, rows in tables.items()}
    for name in ("diagnoses_icd", "procedures_icd"):
        result[name] = [{**row, "icd_version": 9} for row in result.get(name, [])]
    result["patients"] = [
        {"anchor_age": 60, "anchor_year": 2150, "anchor_year_group": "2011 - 2013", **row}
        for row in result.get("patients", [])
    ]
    return result


def as_tables(tables):
    """The rows of a MIMIC-III table set as the generic tables' rows."""
    sex = {row["subject_id"]: row["gender"] for row in tables.get("patients", [])}
    visits = [
        {
            "visit_id": row["hadm_id"],
            "subject_id": row["subject_id"],
            "start": row["admittime"],
            "end": row["dischtime"],
            "died": row["hospital_expire_flag"],
            "sex": sex.get(row["subject_id"]),
            **{name: row.get(name) for name in ("ethnicity", "insurance", "admission_type")},
        }
        for row in tables.get("admissions", [])
    ]
    key = lambda row: {"visit_id": row["hadm_id"], "subject_id": row["subject_id"]}  # noqa: E731
    coded = {
        name: [
            {**key(row), "seq": row["seq_num"], "code": row["icd9_code"], "version": 9}
            for row in tables.get(source, [])
        ]
        for name, source in (("diagnoses", "diagnoses_icd"), ("procedures", "procedures_icd"))
    }
    medications = [
        {**key(row), "start": row["startdate"], "drug": row["drug"]} for row in tables.get("prescriptions", [])
    ]
    return {"visits": visits, **coded, "medications": medications}


def as_generic(tables):
    """The generic tables' rows, which state death and birth as flags."""
    made = as_tables(tables)
    for row, visit in zip(tables["admissions"], made["visits"], strict=True):
        visit |= {
            "died": int(bool(row["hospital_expire_flag"] or row.get("deathtime"))),
            "newborn": int(row["admission_type"] == "NEWBORN"),
        }
    return made


def as_meds(tables):
    """The rows as MEDS events, in the order of the tables."""
    at = lambda text: datetime.fromisoformat(text) if text else None  # noqa: E731
    birth = [(row["subject_id"], None, row["dob"], "MEDS_BIRTH", {}) for row in tables["patients"]]
    sex = [(row["subject_id"], None, None, f"GENDER//{row['gender']}", {}) for row in tables["patients"]]
    events = birth + sex
    for row in tables["admissions"]:
        visit, died = (row["subject_id"], row["hadm_id"]), "DIED" if row["hospital_expire_flag"] == "1" else "HOME"
        who = {"insurance": row["insurance"], "race": row["ethnicity"]}
        events.append((*visit, row["admittime"], f"HOSPITAL_ADMISSION//{row['admission_type']}//CLINIC", who))
        events.append((*visit, row["dischtime"], f"HOSPITAL_DISCHARGE//{died}", {}))
    ends = {row["hadm_id"]: row["dischtime"] for row in tables["admissions"]}
    for name, kind in (("diagnoses_icd", "DIAGNOSIS"), ("procedures_icd", "PROCEDURE")):
        events += [
            (r["subject_id"], r["hadm_id"], ends[r["hadm_id"]], f"{kind}//ICD//9//{r['icd9_code']}", {})
            for r in tables[name]
        ]
    events += [
        (r["subject_id"], r["hadm_id"], r["startdate"], f"MEDICATION//START//{r['drug']}", {})
        for r in tables["prescriptions"]
    ]
    columns = ("subject_id", "hadm_id", "time", "code")
    rows = [{**dict(zip(columns, event[:4], strict=True)), **event[4]} for event in events]
    return [
        {
            **r,
            "subject_id": int(r["subject_id"]),
            "hadm_id": int(r["hadm_id"]) if r["hadm_id"] else None,
            "time": at(r["time"]),
        }
        for r in rows
    ]


def csv_bytes(columns, rows, *, upper=False):
    """One CSV file's text as bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name.upper() if upper else name for name in columns])
    writer.writerows([["" if row.get(name) is None else row[name] for name in columns] for row in rows])
    return text.getvalue().encode()


def _write_csv_tables(folder, standard, titles, tables, gz, upper, without, columns):
    folder.mkdir(parents=True, exist_ok=True)
    for name in [*standard, *(name for name in titles if name in tables)]:
        if name in without:
            continue
        names = (columns or {}).get(name, {**standard, **titles}[name]).split()
        last, value = _LAST.get(name, ("", ""))
        rows = [{last: value, **row} for row in tables.get(name, [])]
        data = csv_bytes(names, rows, upper=upper)
        path = folder / f"{name.upper() if upper else name}.csv{'.gz' if gz else ''}"
        path.write_bytes(gzip.compress(data, mtime=0) if gz else data)
    return folder
