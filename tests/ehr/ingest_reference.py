"""The whole ingest of MIMIC-III-shaped tables in plain Python: csv, dicts and loops, written from docs/ingest.md.
Also small random folders of such tables with every damage that is counted, and how the tests run the command."""

import csv
import gzip
import random
from collections import defaultdict
from datetime import datetime, timedelta

import polars as pl
import pyarrow.parquet as pq

from ckd.ehr.ccs import ccs
from ckd.ehr.codes import Codes
from ckd.visits.grammar import EarlierVisit, render_input
from ckd.visits.labels import DISEASES
from ckd.visits.splits import edges, point
from ckd.visits.visit import group_key
from jobs.cli import main
from tests.ehr.association_reference import table_by_hand
from tests.ehr.ehr_reference import chain_by_hand, earlier_stays
from tests.ehr.ehr_tables import admission

# Codes of some labels, of none, without a title, and one that no table knows.
DIAGNOSES = ("5849", "0389", "4280", "42731", "4019", "25000", "41401", "486", "51881", "2724", "V5861")
DIAGNOSES += ("E8497", "7455", "Q9999")
PROCEDURES = ("3995", "9671", "3893", "0066", "9999")
DRUGS = (
    "Furosemide",
    "furosemide",
    " Insulin,  human",
    "Heparin",
    "Zinc\u00a0Sulfate",
    "Aspirin ",
    "Aspirin",
    "NS",
    "5% Dextrose; D5W",
    "  ",
    "",
)


def ingest(folder, out, *settings, kind="mimic3"):
    """Run the command in this process; returns the rows of its parts by visit_id."""
    assert main(["ingest", kind, str(folder), "--out", str(out), *settings]) == 0
    return rows_of(out)


def rows_of(out):
    """{visit_id: row} of all parts; a visit that is there twice fails."""
    rows = [
        row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    found = {row["visit_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def cohort_files(out):
    """Name and bytes of all that a finished cohort holds, without what a kill in the middle of a write left."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("[!.]*")) if path.is_file()
    }


def read_tables(folder):
    """{table: rows} with lower-case names; an empty cell is None."""
    tables = {}
    for path in folder.iterdir():
        if ".csv" in path.name:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
                rows = [{name.lower(): cell or None for name, cell in row.items()} for row in csv.DictReader(file)]
            tables[path.name.partition(".")[0].lower()] = rows
    return tables


def cohort_by_hand(
    tables,
    *,
    delay=3,
    newborns=False,
    method="lift",
    m=20,
    top=5,
    folds=5,
    tuning=0.1,
    held_out=0.2,
    seed=42,
    history=0,
):
    """{visit_id: the row that a part should hold} of MIMIC-III rows as read_tables gives them."""
    stays = {row["hadm_id"]: row for row in tables["admissions"]}
    used = {name: usable(tables[name], stays) for name in ("diagnoses_icd", "procedures_icd", "prescriptions")}
    judged = chain_by_hand([judgeable(row, used["diagnoses_icd"]) for row in stays.values()], delay, newborns)
    stay_of = {visit: verdict["stay_id"] for visit, verdict in judged.items() if verdict["stay_id"]}
    kept = {visit: verdict for visit, verdict in judged.items() if verdict["role"] != "excluded"}
    bits = {visit: mask(used["diagnoses_icd"], visit, stay_of) for visit in set(stay_of.values())}
    split_of = splits_by_hand(stays, kept, seed, tuning, held_out)
    rows = {}
    for visit, verdict in kept.items():
        subject = stays[visit]["subject_id"]
        rows[visit] = {
            "visit_id": visit,
            "subject_id": subject,
            "split": split_of[subject],
            "prediction_time": verdict["prediction_time"].strftime("%Y-%m-%dT%H:%M:%S"),
            "current_labels": flags(bits[visit]),
            "labels": flags(bits[verdict["next_id"]]) if verdict["role"] == "pair" else None,
            **person(stays[visit], tables["patients"], verdict["start"]),
        }
    drugs = {v: drug_names(used["prescriptions"], v, stay_of, verdict["start"]) for v, verdict in kept.items()}
    train = [
        (row["subject_id"], fold_of(row["subject_id"], folds), bits[v], bits[kept[v]["next_id"]], set(drugs[v]))
        for v, row in rows.items()
        if kept[v]["role"] == "pair" and row["split"] == "train"
    ]
    clauses = clauses_by_hand(train, method, m, top, folds)
    for visit, row in rows.items():
        table = clauses[fold_of(row["subject_id"], folds) if row["split"] == "train" else None]
        present = [disease for disease, now in zip(DISEASES, row["current_labels"], strict=True) if now]
        named = {disease: table[disease] for disease in present if disease in table}
        earlier = [
            EarlierVisit(days, *lists_of(used, past, stay_of, stays))
            for past, days in earlier_stays(visit, judged, stays)[:history]
        ]
        row["input"] = render_input(*lists_of(used, visit, stay_of, stays), named, earlier)
    return rows


def lists_of(used, visit, stay_of, stays):
    """Diseases, drugs and operations of a stay."""
    diseases, operations = (
        code_names(used[table], kind, visit, stay_of, stays)
        for table, kind in (("diagnoses_icd", "diagnosis"), ("procedures_icd", "procedure"))
    )
    return diseases, drug_names(used["prescriptions"], visit, stay_of, time(stays[visit]["admittime"])), operations


def clauses_by_hand(train, method, m, top, folds):
    """{fold: disease -> drugs, from the other folds' visits}; None: from all."""
    others = {fold: [visit for visit in train if visit[1] != fold] for fold in range(folds)}
    return {fold: table_by_hand(visits, method, m, top) for fold, visits in {**others, None: train}.items()}


def usable(rows, stays):
    """The rows of a known admission of that subject with a code or drug, in file order."""
    known = {(row["subject_id"], row["hadm_id"]) for row in stays.values()}
    given = [row for row in rows if (row["subject_id"], row["hadm_id"]) in known]
    return [row for row in given if (row.get("icd9_code") or row.get("drug") or "").split()]


def judgeable(row, diagnoses):
    start, end = time(row["admittime"]), time(row["dischtime"])
    return {
        "visit_id": row["hadm_id"],
        "subject_id": row["subject_id"],
        "start": start,
        "end": end,
        "start_bad": bool(row["admittime"]) and start is None,
        "end_bad": bool(row["dischtime"]) and end is None,
        "died": row["hospital_expire_flag"] == "1" or time(row["deathtime"]) is not None,
        "newborn": (row["admission_type"] or "").upper() == "NEWBORN",
        "coded": any(d["hadm_id"] == row["hadm_id"] and ccs(d["icd9_code"], "9") for d in diagnoses),
    }


def time(text):
    try:
        return datetime.fromisoformat(text) if text and len(text) == 19 else None
    except ValueError:
        return None


def meaning(kind, code):
    found = getattr(Codes(), "diagnoses" if kind == "diagnosis" else "procedures")(
        pl.DataFrame({"code": [code], "version": ["9"]})
    )
    return found.row(0, named=True)


MEANINGS = {
    (kind, code): meaning(kind, code)
    for kind, codes in (("diagnosis", DIAGNOSES), ("procedure", PROCEDURES))
    for code in codes
}


def mask(diagnoses, visit, stay_of):
    labels = {
        MEANINGS["diagnosis", row["icd9_code"]]["label"] for row in diagnoses if stay_of.get(row["hadm_id"]) == visit
    }
    return sum(1 << label for label in labels if label is not None)


def flags(bits):
    return [bool(bits >> k & 1) for k in range(len(DISEASES))]


def code_names(rows, kind, visit, stay_of, stays):
    """Titles: an earlier admission's first, then by sequence number (without one: last), then in file order."""
    mine = [row for row in rows if stay_of.get(row["hadm_id"]) == visit]
    mine.sort(key=lambda row: (time(stays[row["hadm_id"]]["admittime"]), row["hadm_id"], whole(row["seq_num"])))
    return list(dict.fromkeys(title for row in mine if (title := MEANINGS[kind, row["icd9_code"]]["title"])))


def whole(text):
    return int(text) if text and text.lstrip("-").isdigit() else float("inf")


def drug_names(rows, visit, stay_of, start):
    mine = [row for row in rows if stay_of.get(row["hadm_id"]) == visit]
    mine.sort(key=lambda row: (time(row["startdate"]) or datetime.fromisoformat("9999-01-01")) - start)
    return list(dict.fromkeys(" ".join(row["drug"].split()) for row in mine))


def fold_of(subject, folds):
    return group_key(subject, "") % folds


def splits_by_hand(stays, kept, seed, tuning, held_out):
    place = {stays[visit]["subject_id"]: point(group_key(stays[visit]["subject_id"], ""), seed) for visit in kept}
    labeled = {stays[visit]["subject_id"] for visit, verdict in kept.items() if verdict["role"] == "pair"}
    ends = edges(
        [place[subject] for subject in labeled],
        {"train": 1 - tuning - held_out, "tuning": tuning, "held_out": held_out},
    )
    return {subject: next(split for split, end in ends.items() if place[subject] < end) for subject in place}


def person(stay, patients, start):
    found = next((row for row in patients if row["subject_id"] == stay["subject_id"]), {})
    birth = time(found.get("dob"))
    years = int((start - birth) // timedelta(days=1) / 365.2425) if birth and birth <= start else None
    return {
        "age": None if years is None else str(min(years, 90)),
        "sex": found.get("gender"),
        **{name: stay[name] for name in ("ethnicity", "insurance", "admission_type")},
    }


def random_tables(seed, subjects=12):
    """MIMIC-III rows of a few subjects with many visits, overlaps, deaths, wrong times, and rows of no admission."""
    rng = random.Random(seed)
    tables = defaultdict(list)
    for subject in rng.sample(range(1, 10_000), subjects):
        born = datetime.fromisoformat("2000-05-06") + timedelta(days=rng.randint(0, 48_000))
        tables["patients"].append(
            {"subject_id": subject, "gender": rng.choice(["F", "M", ""]), "dob": rng.choice([born, born, born, ""])}
        )
        now = datetime.fromisoformat("2140-01-01") + timedelta(hours=rng.randint(0, 20_000))
        for _ in range(rng.randint(1, 6)):
            now = one_admission(rng, tables, subject, now)
    rng.shuffle(tables["admissions"])
    for name in ("diagnoses_icd", "prescriptions", "procedures_icd"):
        tables[name].append({"subject_id": 1, "hadm_id": 1, "icd9_code": "0389", "drug": "Heparin", "seq_num": 1})
    return dict(tables)


def one_admission(rng, tables, subject, now):
    visit, start = 100_000 + len(tables["admissions"]), now
    end = start + timedelta(hours=rng.choice([0, 5, 30, 100, 300, 900]))
    row = admission(
        subject, visit, start, end, insurance=rng.choice(["Medicare", ""]), ethnicity=rng.choice(["WHITE", "ASIAN", ""])
    )
    damage = rng.random()
    if damage < 0.03:
        row["dischtime"] = rng.choice(["", "2150-13-01 00:00:00", "2101-01-01 00:00:00"])
    elif damage < 0.05:
        row["admittime"] = rng.choice(["", "soon"])
    elif damage < 0.08:
        row |= rng.choice(
            [{"hospital_expire_flag": 1}, {"deathtime": end}, {"admission_type": "NEWBORN"}, {"subject_id": ""}]
        )
    tables["admissions"].append(row)
    add = {"subject_id": row["subject_id"], "hadm_id": visit}
    if rng.random() > 0.05:
        codes = [rng.choice(DIAGNOSES[:9]) for _ in range(rng.randint(1, 5))] + [rng.choice((*DIAGNOSES, ""))]
        tables["diagnoses_icd"] += [
            {**add, "seq_num": rng.choice([n, n, n, ""]), "icd9_code": code} for n, code in enumerate(codes, 1)
        ]
    for n in range(rng.randint(0, 3)):
        tables["procedures_icd"].append({**add, "seq_num": 3 - n, "icd9_code": rng.choice(PROCEDURES)})
    for _ in range(rng.randint(0, 7)):
        day = rng.choice([start + timedelta(days=rng.randint(-1, 5)), start, "", "01/01/2150"])
        tables["prescriptions"].append({**add, "startdate": day, "drug": rng.choice(DRUGS)})
    gap = rng.choice([-20, 3, 30, 70, 71, 72, 73, 100, 500, 4000])
    return max(start, end + timedelta(hours=gap))


def returning(subjects=8):
    """Subjects who return once, each visit with codes and a drug."""
    tables = {"admissions": [], "patients": [], "diagnoses_icd": [], "prescriptions": []}
    for subject in range(1, subjects + 1):
        tables["patients"].append({"subject_id": subject, "gender": "F", "dob": "2080-02-03 00:00:00"})
        for visit, year in ((10 * subject, 2150), (10 * subject + 1, 2151)):
            tables["admissions"].append(admission(subject, visit, f"{year}-01-01 10:00:00", f"{year}-01-05 12:00:00"))
            for sequence, code in enumerate(("0389", "5849"), 1):
                tables["diagnoses_icd"].append(
                    {"subject_id": subject, "hadm_id": visit, "seq_num": sequence, "icd9_code": code}
                )
            tables["prescriptions"].append(
                {"subject_id": subject, "hadm_id": visit, "startdate": f"{year}-01-01 00:00:00", "drug": "Zinc"}
            )
    return tables


def replaced(tables, name, number, **cells):
    """The tables with other cells in one row of one table."""
    rows = [dict(row) for row in tables[name]]
    rows[number] |= cells
    return {**tables, name: rows}
