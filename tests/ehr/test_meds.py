import json
from datetime import datetime

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.ehr.canonical import SCHEMAS, TABLE_NAMES
from ckd.ehr.kinds import open_source
from ckd.ehr.partition import partition, read
from ckd.errors import DataError
from tests.ehr.ehr_tables import MEDS_COLUMNS, write_meds

at = datetime.fromisoformat


def event(subject, time, code, visit=None, **more):
    return {"subject_id": subject, "time": at(time) if time else None, "code": code, "hadm_id": visit, **more}


def stay(subject, visit, start, end, home="HOME"):
    return [
        event(subject, start, "HOSPITAL_ADMISSION//URGENT//EMERGENCY ROOM", visit, insurance="Medicare", race="WHITE"),
        event(subject, end, f"HOSPITAL_DISCHARGE//{home}", visit),
    ]


def events():
    return [
        event(1, None, "GENDER//F"),
        event(1, "2080-01-01", "MEDS_BIRTH"),
        *stay(1, 11, "2150-01-01 10:00", "2150-01-05 12:00"),
        *stay(1, 12, "2150-03-01 10:00", "2150-03-04 09:30"),
        event(1, "2150-01-05 12:00", "DIAGNOSIS//ICD//9//5849", 11),
        event(1, "2150-03-04 09:30", "DIAGNOSIS//ICD//10//N17.9", 12),
        event(1, "2150-01-05 12:00", "PROCEDURE//ICD//9//3995", 11),
        event(1, "2150-01-02", "PROCEDURE//START//225402", 11),
        event(1, "2150-01-02", "LAB//RESULT//50912//mg/dL", 11, numeric_value=1.5),
        event(1, "2150-01-02", "MEDICATION//Furosemide//Administered", 11),
        event(1, "2150-01-02", "MEDICATION//Heparin//Not Given", 11),
        event(1, "2150-01-03", "MEDICATION//START//Insulin, human"),
        event(1, "2150-01-04", "MEDICATION//STOP//Insulin, human"),
        event(1, "2150-01-04", "MEDICATION//UNK//UNK", 11),
        event(2, None, "GENDER//M"),
        *stay(2, 21, "2149-06-01 00:00", "2149-06-02 08:00"),
        event(2, "2149-06-02", "MEDS_DEATH"),
        *stay(3, 31, "2149-06-01 00:00", "2149-06-02 08:00", home="DIED"),
        event(4, "2149-06-01", "HOSPITAL_ADMISSION//NEWBORN//UNK", 41),
    ]


def opened(tmp_path, rows, **options):
    return open_source("meds", str(write_meds(tmp_path / "meds", rows, **options)))


def test_meds_tables_have_the_columns_and_types_of_the_contract(tmp_path):
    source = opened(tmp_path, events())
    for table, schema in SCHEMAS.items():
        wanted = schema if "subject_id" in schema else {"subject_id": pl.String(), **schema}
        assert dict(source.scan(table).collect_schema()) == dict(wanted)


@pytest.mark.parametrize("shards", [1, 3])
def test_stays_are_made_of_their_admission_discharge_and_death(tmp_path, shards):
    visits = opened(tmp_path, events(), shards=shards).scan("visits").collect().sort("visit_id")
    assert visits.select("subject_id", "visit_id", "start", "end", "died", "newborn").rows() == [
        ("1", "11", at("2150-01-01 10:00"), at("2150-01-05 12:00"), False, False),
        ("1", "12", at("2150-03-01 10:00"), at("2150-03-04 09:30"), False, False),
        ("2", "21", at("2149-06-01 00:00"), at("2149-06-02 08:00"), True, False),
        ("3", "31", at("2149-06-01 00:00"), at("2149-06-02 08:00"), True, False),
        ("4", "41", at("2149-06-01 00:00"), None, False, True),
    ]
    assert visits.select("insurance", "ethnicity", "admission_type").row(0) == ("Medicare", "WHITE", "URGENT")
    assert visits["admission_type"].to_list()[-1] == "NEWBORN"


def test_codes_drugs_and_patients_come_from_their_prefixes(tmp_path):
    source = opened(tmp_path, events())
    assert source.scan("diagnoses").select("visit_id", "version", "code").collect().rows() == [
        ("11", "9", "5849"),
        ("12", "10", "N17.9"),
    ]
    assert source.scan("procedures").select("visit_id", "version", "code").collect().rows() == [("11", "9", "3995")]
    drugs = source.scan("medications").sort("place").select("visit_id", "start", "drug").collect().rows()
    # Nothing was given at "Not Given", a stop is no use, and an unknown drug is left for the count of empty ones.
    assert drugs == [
        ("11", at("2150-01-02"), "Furosemide"),
        ("11", at("2150-01-03"), "Insulin, human"),  # by its time
        ("11", at("2150-01-04"), None),
    ]
    patients = source.scan("patients").collect().sort("subject_id")
    assert patients.select("subject_id", "sex", "birth").rows() == [("1", "F", at("2080-01-01")), ("2", "M", None)]


def test_a_death_after_the_stay_is_no_death_in_it(tmp_path):
    rows = [
        *stay(1, 11, "2150-01-01", "2150-01-05"),
        *stay(1, 12, "2150-02-01", "2150-02-05"),
        event(1, "2150-02-05", "MEDS_DEATH"),
    ]
    visits = opened(tmp_path, rows).scan("visits").collect().sort("visit_id")
    assert visits["died"].to_list() == [False, True]


def test_the_race_may_be_an_event_of_its_own(tmp_path):
    rows = [*stay(1, 11, "2150-01-01", "2150-01-05"), event(1, None, "RACE//ASIAN")]
    columns = [name for name in MEDS_COLUMNS if name != "race"]
    assert opened(tmp_path, rows, columns=columns).scan("visits").collect()["ethnicity"].to_list() == ["ASIAN"]


def test_meds_shards_are_partitioned_like_tables(tmp_path):
    source = opened(tmp_path, events(), shards=2)
    counts = partition(source, str(tmp_path / "work"), 3)
    assert sum(counts) == 5
    for table in TABLE_NAMES:
        together = pl.concat([read(str(tmp_path / "work"), table, index) for index in range(3)]).sort("place")
        scanned = source.scan(table).select(*SCHEMAS[table]).collect().sort("place")
        same = [name for name in SCHEMAS[table] if name in together.columns]
        assert together.select(same).cast({pl.Categorical: pl.String}).equals(scanned.select(same))
    first = read(str(tmp_path / "work"), "diagnoses", 0)["place"].to_list()
    assert all(source.locate("diagnoses", place).rpartition(":")[0].endswith(".parquet") for place in first)


def test_a_place_leads_to_the_shard_and_the_row(tmp_path):
    source = opened(tmp_path, events(), shards=2)
    place = source.scan("visits").filter(pl.col("visit_id") == "21").collect()["place"][0]
    assert source.locate("visits", place) == f"{tmp_path / 'meds' / 'data' / 'train' / '0.parquet'}:2"


def test_the_split_column_is_a_column_of_the_admission_events(tmp_path):
    folder = str(write_meds(tmp_path / "meds", events()))
    visits = open_source("meds", folder, "insurance").scan("visits").collect().sort("visit_id")
    assert visits["cut"].to_list()[0] == "Medicare"


def test_titles_and_license_come_from_the_metadata(tmp_path):
    codes = [
        ("DIAGNOSIS//ICD//9//5849", "Acute kidney failure"),
        ("PROCEDURE//ICD//10//0DTJ", "Resection"),
        ("LAB//1", "x"),
        ("DIAGNOSIS//ICD//9//1", None),
    ]
    source = opened(tmp_path, events(), codes=codes)
    assert source.titles().rows() == [
        ("diagnosis", "9", "5849", "Acute kidney failure"),
        ("procedure", "10", "0DTJ", "Resection"),
    ]
    assert (source.license, source.credentialed) == ("not stated", True)
    (tmp_path / "meds" / "metadata" / "dataset.json").write_text(
        json.dumps({"dataset_name": "x", "license": "CC0-1.0"})
    )
    assert (source.license, source.credentialed) == ("CC0-1.0", False)
    assert opened(tmp_path / "plain", events()).titles().rows() == []


def test_meds_without_a_visit_id_is_refused_with_the_reason(tmp_path):
    columns = [name for name in MEDS_COLUMNS if name != "hadm_id"]
    with pytest.raises(DataError, match="no column 'hadm_id' or 'visit_id'.*nor the next visit"):
        opened(tmp_path, events(), columns=columns)
    rows = [{**row, "hadm_id": None} for row in events()]
    with pytest.raises(DataError, match="5 of 5 admissions have no visit id, so no next visit can be told"):
        partition(opened(tmp_path / "null", rows), str(tmp_path / "work"), 1)


def test_meds_without_admissions_shards_or_columns_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no admission"):
        partition(opened(tmp_path, [event(1, None, "GENDER//F", 1)]), str(tmp_path / "work"), 1)
    (tmp_path / "empty" / "data").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no \*\.parquet file"):
        open_source("meds", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="no column 'code' among subject_id, time, hadm_id"):
        opened(tmp_path / "code", events(), columns=["subject_id", "time", "hadm_id"])


def test_damaged_shards_and_wrong_types_are_refused(tmp_path):
    folder = write_meds(tmp_path / "meds", events())
    shard = folder / "data" / "train" / "0.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"0\.parquet: not a Parquet file"):
        open_source("meds", str(folder))
    shard.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(DataError, match=r"0\.parquet: (damaged|not a) Parquet"):
        partition(open_source("meds", str(folder)), str(tmp_path / "work"), 1)
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(
        table.set_column(table.schema.get_field_index("hadm_id"), "hadm_id", table["hadm_id"].cast(pa.bool_())), shard
    )
    with pytest.raises(DataError, match="column 'hadm_id' is Boolean, expected text or whole numbers"):
        open_source("meds", str(folder))
