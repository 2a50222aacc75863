"""MEDS as its ETLs write it: attributes as events, orders without a visit, own splits, other vocabularies; and what the
public ETL makes of the open demo against `ckd ingest mimic4` on its tables."""

import csv
import gzip
import re
from collections import Counter, defaultdict
from datetime import datetime

import polars as pl
import pytest

from ckd.ehr.kinds import open_source
from ckd.errors import ConfigError, DataError
from ckd.visits.grammar import INPUT
from jobs.cli import main
from tests.ehr.ehr_tables import write_meds
from tests.ehr.ingest_reference import ingest
from tests.ehr.mimic_rows import open_data
from tests.ehr.test_ingest_counted import card_of
from tests.ehr.test_meds import event, opened, stay

at = datetime.fromisoformat
PLAIN = ["subject_id", "time", "code", "hadm_id"]


def patients(count=6, dx="DIAGNOSIS//ICD//9//", drug="MEDICATION//"):
    """Patients who return once; patient n's visits are 10n and 10n + 1."""
    rows = []
    for n in range(1, count + 1):
        for visit, month in ((10 * n, "01"), (10 * n + 1, "06")):
            rows += stay(n, visit, f"2150-{month}-01 10:00", f"2150-{month}-05 12:00")
            rows += [event(n, f"2150-{month}-05 12:00", f"{dx}{code}", visit) for code in ("5849", "4280")]
            rows.append(event(n, f"2150-{month}-02 08:00", f"{drug}Zinc", visit))
    return rows


def test_what_is_said_of_a_visit_wins_over_what_is_said_of_its_patient(tmp_path):
    rows = [*stay(1, 11, "2150-01-01", "2150-01-05"), *stay(1, 12, "2150-03-01", "2150-03-05")]
    rows += [*stay(1, 13, "2150-06-01", "2150-06-05"), *stay(1, 14, "2150-09-01", "2150-09-05")]
    rows += [event(1, "2150-01-01", "RACE//WHITE", 11), event(1, "2150-01-01", "INSURANCE//Medicare", 11)]
    rows += [event(1, "2150-03-01", "RACE//ASIAN", 12), event(1, "2150-03-01", "RACE//UNK", 13)]
    rows += [event(1, None, "RACE//OTHER"), event(1, "2150-08-01", "ETHNICITY//BLACK")]
    visits = opened(tmp_path, rows, columns=PLAIN).scan("visits").collect().sort("visit_id")
    assert visits["ethnicity"].to_list() == ["WHITE", "ASIAN", "OTHER", "BLACK"]
    assert visits["insurance"].to_list() == ["Medicare", None, None, None]


def test_an_order_without_a_visit_belongs_to_the_one_stay_that_contains_it(tmp_path):
    rows = patients()
    rows += [event(1, "2150-01-03 09:00", "MEDICATION//START//Iron//1")]  # in a stay
    rows += [event(1, "2150-01-05 12:00", "MEDICATION//START//Tin//1")]  # at its end
    rows += [event(1, "2150-03-03 09:00", "MEDICATION//START//Gold//1")]  # in none
    rows += [event(1, None, "MEDICATION//START//Lead//1")]  # at no time
    rows += [event(2, "2150-01-03 09:00", "MEDICATION//START//Clay//1", 21)]  # its own visit, whatever the time says
    rows += stay(3, 35, "2150-01-04 10:00", "2150-01-09 10:00")
    rows += [event(3, "2150-01-04 11:00", "MEDICATION//START//Salt//1")]  # in two stays
    found = ingest(write_meds(tmp_path / "meds", rows), tmp_path / "out", kind="meds")
    assert "medication: Zinc, Iron, Tin. " in found["10"]["input"]
    assert "Clay" in found["21"]["input"] and "Clay" not in found["20"]["input"]
    assert not any(drug in row["input"] for row in found.values() for drug in ("Gold", "Lead", "Salt"))
    card = card_of(tmp_path / "out")
    assert {cell["name"]: cell["rows"] for cell in card["cells"]} == {"by_time": 2, "several": 1}
    assert card["rows"]["medications"]["rejected"]["no visit id"]["rows"] == 3


def test_events_whose_code_is_none_or_like_no_prefix_are_counted_too(tmp_path, capsys):
    rows = patients()
    rows += [event(1, "2150-01-02", code, 10) for code in (None, None, "44054006", "Zebra? 7", "LAB//5//x")]
    ingest(write_meds(tmp_path / "meds", rows), tmp_path / "out", kind="meds")
    said = "not read: (no code) 2 of 1 patients, (not like a prefix) 2 of 1 patients, LAB// 1 of 1 patients"
    assert said in capsys.readouterr().out


def test_diagnoses_without_a_version_are_told_so(tmp_path, capsys):
    folder = write_meds(tmp_path / "meds", patients(dx="DIAGNOSIS//ICD//"))
    assert main(["ingest", "meds", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "expected DIAGNOSIS//ICD//<version>//<code>" in capsys.readouterr().err


def splits_of(folder, **split):
    (folder / "metadata").mkdir(exist_ok=True)
    rows = {"subject_id": [int(name[1:]) for name in split], "split": list(split.values())}
    pl.DataFrame(rows).write_parquet(folder / "metadata" / "subject_splits.parquet")
    return folder


def test_the_splits_of_the_data_set_are_those_of_the_cohort(tmp_path, capsys):
    folder = write_meds(tmp_path / "meds", patients(), shards=2)
    named = {"s1": "held_out", "s2": "train", "s3": "tuning", "s4": "train", "s5": "held_out"}
    found = ingest(splits_of(folder, **named), tmp_path / "out", kind="meds")
    said = capsys.readouterr().out
    assert {row["split"] for row in found.values() if row["subject_id"] == "6"} == {"train"}
    assert {f"s{row['subject_id']}": row["split"] for row in found.values() if row["subject_id"] != "6"} == named
    assert "the splits are those of the data set, metadata/subject_splits.parquet" in said
    assert "1 patients have no value of metadata/subject_splits.parquet" in said
    # Other splits are another input, and a column that is named wins.
    splits_of(folder, **{**named, "s1": "train"})
    assert main(["ingest", "meds", str(folder), "--out", str(tmp_path / "out")]) == 2
    column = ("ingest.split_column=insurance", 'ingest.tuning_values=["none"]')
    assert main(["ingest", "meds", str(folder), "--out", str(tmp_path / "by"), *column]) == 2
    assert "ingest.tuning_values: no patient with a labelled visit has one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"PAR1"), "cannot be read"),
        (lambda path: pl.DataFrame({"subject_id": [1]}).write_parquet(path), "columns subject_id; expected"),
        (lambda path: pl.DataFrame({"subject_id": [1], "split": ["test"]}).write_parquet(path), "a split that is none"),
        (lambda path: pl.DataFrame({"subject_id": [1, 1], "split": ["train"] * 2}).write_parquet(path), "there twice"),
    ],
)
def test_splits_that_are_none_are_refused(tmp_path, damage, said):
    folder = splits_of(write_meds(tmp_path / "meds", patients(1)), s1="train")
    damage(folder / "metadata" / "subject_splits.parquet")
    with pytest.raises(DataError, match=rf"subject_splits\.parquet: .*{said}.*move it away to split by hash"):
        open_source("meds", str(folder)).scan("visits").collect()


def renamed(rows, **prefixes):
    """The events with other prefixes."""
    found = []
    for row in rows:
        old = next((p for p in prefixes if row["code"].startswith(p.replace("_X_", "//"))), None)
        code = prefixes[old] + row["code"].removeprefix(old.replace("_X_", "//")) if old else row["code"]
        found.append({**row, "code": code})
    return found


OWN = {"HOSPITAL_ADMISSION_X_": "Visit/", "HOSPITAL_DISCHARGE_X_": "Left/", "DIAGNOSIS_X_ICD_X_9_X_": "Dx9/"}


def test_codes_of_another_vocabulary_are_read_by_a_table_and_named_without_one(tmp_path, capsys):
    plain = ingest(write_meds(tmp_path / "plain", patients()), tmp_path / "plain_out", kind="meds")
    folder = write_meds(tmp_path / "meds", renamed(patients(), **OWN))
    assert main(["ingest", "meds", str(folder), "--out", str(tmp_path / "no")]) == 2
    line = capsys.readouterr().err
    assert "there is no admission in it; expected codes that begin with MIMIC_IV_Admission/, HOSPITAL_ADMISSION" in line
    assert "found Dx9/ (24), Left/ (12), Visit/ (12); name them in ingest.meds_codes=FILE" in line
    table = tmp_path / "codes.csv"
    table.write_text("prefix,read_as,version\nVisit/,admission,\nLeft/,discharge,\nDx9/,diagnosis,9\n")
    assert ingest(folder, tmp_path / "out", f"ingest.meds_codes={table}", kind="meds") == plain
    table.write_text("prefix,read_as,version\nVisit/,admission,\nLeft/,discharge,\nDx9/,diagnosis,10\n")
    # Another table is another input.
    assert main(["ingest", "meds", str(folder), "--out", str(tmp_path / "out"), f"ingest.meds_codes={table}"]) == 2
    table.write_text("prefix,read_as,version\nVisit/,admittance,\n")
    with pytest.raises(ConfigError, match=r"codes\.csv:2: no rule; expected a prefix, one of admission, discharge"):
        open_source("meds", str(folder), meds_codes=str(table))
    with pytest.raises(ConfigError, match=r"ingest\.meds_codes=.*gone: cannot be read"):
        open_source("meds", str(folder), meds_codes=str(tmp_path / "gone"))


def test_what_only_some_patients_have_under_another_prefix_is_told(tmp_path, capsys):
    rows = patients()
    rows = [*renamed([r for r in rows if r["subject_id"] <= 3], DIAGNOSIS_X_ICD_X_9_X_="Dx9/"), *rows[len(rows) // 2 :]]
    found = ingest(write_meds(tmp_path / "meds", rows), tmp_path / "out", kind="meds")
    assert {row["subject_id"] for row in found.values()} == {"4", "5", "6"}
    said = capsys.readouterr().out
    assert "excluded 6: no diagnosis codes" in said and "not read: Dx9/ 12 of 3 patients" in said
    assert card_of(tmp_path / "out")["codes_passed_over"] == [{"prefix": "Dx9/", "events": 12, "subjects": 3}]


WRITTEN = {
    "visits as numbers with a point": pl.col("hadm_id").cast(pl.Float64),
    "visits as text": pl.col("hadm_id").cast(pl.String) + ".0",
    "padded visits": pl.format(" {} ", pl.col("hadm_id")),
    "patients as text": pl.col("subject_id").cast(pl.String),
    "patients as numbers with a point": pl.col("subject_id").cast(pl.Float64),
    "patients as decimals": pl.col("subject_id").cast(pl.Decimal(12, 0)),
    "times as text": pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S.%6f"),
    "times with a zone": pl.col("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
    "times in nanoseconds": pl.col("time").cast(pl.Datetime("ns")),
    "codes as categories": pl.col("code").cast(pl.Categorical),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_the_types_of_the_columns_make_no_difference(tmp_path, how):
    plain = ingest(write_meds(tmp_path / "plain", patients()), tmp_path / "plain_out", kind="meds")
    folder = write_meds(tmp_path / "meds", patients())
    shard = folder / "data" / "train" / "0.parquet"
    pl.read_parquet(shard).with_columns(WRITTEN[how]).write_parquet(shard)
    assert ingest(folder, tmp_path / "out", kind="meds") == plain


def test_an_admission_event_may_have_its_own_end(tmp_path):
    plain = ingest(write_meds(tmp_path / "plain", patients()), tmp_path / "plain_out", kind="meds")
    ends = {row["hadm_id"]: row["time"] for row in patients() if row["code"].startswith("HOSPITAL_DISCHARGE")}
    rows = [row for row in patients() if not row["code"].startswith("HOSPITAL_DISCHARGE")]
    folder = write_meds(tmp_path / "meds", rows)
    shard = folder / "data" / "train" / "0.parquet"
    admitted = pl.col("code").str.starts_with("HOSPITAL_ADMISSION")
    end = pl.col("hadm_id").replace_strict(ends, return_dtype=pl.Datetime("us"))
    pl.read_parquet(shard).with_columns(end=pl.when(admitted).then(end)).write_parquet(shard)
    assert ingest(folder, tmp_path / "out", kind="meds") == plain


@pytest.mark.parametrize("dx", ["ICD9CM/", "ICD9CM//"])
def test_the_codes_of_meds_etl_are_read(tmp_path, dx):
    plain = ingest(write_meds(tmp_path / "plain", patients()), tmp_path / "plain_out", kind="meds")
    rows = renamed(patients(dx=dx, drug="MIMIC_IV_Drug/"), HOSPITAL_ADMISSION_X_="MIMIC_IV_Admission/")
    rows = renamed(rows, HOSPITAL_DISCHARGE_X_="MIMIC_IV_Discharge_Location/")
    assert ingest(write_meds(tmp_path / "meds", rows), tmp_path / "out", kind="meds") == plain


def lists(row):
    """The names of diseases, drugs and operations in a text."""
    return re.fullmatch(re.escape(INPUT).replace(r"\{\}", "(.*)"), row["input"]).groups()[:3]


def names(text):
    """What a list of names is apart from their order; a name may have a comma in it."""
    return Counter(text.split(", "))


def test_the_public_etl_of_the_demo_gives_the_cohort_of_its_tables(tmp_path):
    """The differences: the splits, which are the ETL's own; the order of diseases and operations, as it drops seq_num;
    drugs that it has not: solutions and the like (drug_type BASE), as it reads `pharmacy`, and the 302 orders that lie
    in no stay. None are there more."""
    folder = open_data()
    tables = ingest(folder / "mimic4_demo", tmp_path / "a", "ingest.treatment=none", kind="mimic4")
    events = ingest(folder / "mimic4_meds_demo", tmp_path / "b", "ingest.treatment=none", kind="meds")
    splits = pl.read_parquet(folder / "mimic4_meds_demo" / "metadata" / "subject_splits.parquet")
    by_subject = {str(subject): split for subject, split in splits.select("subject_id", "split").iter_rows()}
    orders = open_source("meds", str(folder / "mimic4_meds_demo")).scan("medications").collect()
    nowhere = orders.filter(pl.col("visit_id").is_null()).select("subject_id", "drug").iter_rows()
    outside = {(subject, " ".join(drug.split())) for subject, drug in nowhere}
    mains, lost, more = main_drugs(folder / "mimic4_demo" / "hosp" / "prescriptions.csv.gz"), Counter(), 0
    assert tables.keys() == events.keys() and len(tables) == 250
    for visit, row in tables.items():
        other, text = events[visit], ("split", "input")
        assert {**row, **dict.fromkeys(text)} == {**other, **dict.fromkeys(text)}
        assert other["split"] == by_subject[row["subject_id"]]
        here, there = ([names(part) for part in lists(one)] for one in (row, other))
        assert (here[0], here[2]) == (there[0], there[2])
        assert (here[1] == names("None")) == (there[1] == names("None"))
        for drug in here[1] - there[1]:
            in_no_stay = (row["subject_id"], drug) in outside
            lost["in no stay" if in_no_stay else "main" if drug in mains[visit] else "base"] += 1
        more += (there[1] - here[1]).total()
    assert (more, lost) == (0, {"base": 1084, "in no stay": 79})
    card = card_of(tmp_path / "b")
    assert {cell["name"]: cell["rows"] for cell in card["cells"]} == {"by_time": 13_420}
    assert {why: e["rows"] for why, e in card["rows"]["medications"]["rejected"].items()} == {"no visit id": 302}


def main_drugs(path):
    """hadm_id -> its drugs of drug_type MAIN in prescriptions."""
    found = defaultdict(set)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["drug_type"] == "MAIN":
                found[row["hadm_id"]] |= set(names(" ".join(row["drug"].split())))
    return found
