"""From input files to the stored cohort: identities, splits, counts, refusals, resume."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd.errors import ArtifactError, DataError
from ckd.visits.cohort import quarantine_file
from ckd.visits.labels import DISEASES
from testbed.rows import MARKER, row, rows, write_jsonl
from tests.visits.case import Case, splits_of, stored


def test_files_decide_and_every_row_is_stored_once(tmp_path):
    case = Case(tmp_path, train=rows(0, 20), tuning=rows(20, 30), held_out=rows(30, 40))
    cohort = case.prepare()
    found = stored(cohort)
    assert len({visit["visit_id"] for visit in found}) == 40
    assert Counter(visit["split"] for visit in found) == {"train": 20, "tuning": 10, "held_out": 10}
    assert all(visit["source"] == visit["split"] for visit in found)
    assert sorted(visit["line"] for visit in found if visit["source"] == "tuning") == list(range(1, 11))
    assert all(
        len({visit["split"] for visit in cohort.read(shard).to_pylist()}) == 1 and shard.rows <= 7
        for shard in cohort.shards
    )
    assert case.said[0] == "visits: read 40 = kept 40 + quarantined 0"
    assert cohort.facts["grouped_by"] == "subject" and not case.heard("patients may leak")


def test_parts_are_readable_with_pyarrow_dataset_alone_and_are_an_input_themselves(tmp_path):
    case = Case(tmp_path, train=rows(0, 20), held_out=rows(30, 40))
    cohort = case.prepare()
    folder = str(tmp_path / "artifacts" / "visits")
    assert ds.dataset(folder).to_table().num_rows == 30
    (tmp_path / "again").mkdir()
    copy = Case(tmp_path / "again").prepare(train=folder)
    by_id = {visit["visit_id"]: visit["split"] for visit in stored(cohort)}
    assert {visit["visit_id"]: visit["split"] for visit in stored(copy)} == by_id


def test_without_a_held_out_file_tuning_is_halved_by_subject(tmp_path):
    case = Case(tmp_path, train=rows(0, 10), tuning=rows(10, 210))
    cohort = case.prepare()
    assert all(len(found) == 1 for found in splits_of(cohort, "subject_id").values())
    assert (
        cohort.count("train") == 10
        and 60 < cohort.count("tuning") < 140
        and cohort.count("held_out") == 200 - cohort.count("tuning")
    )
    assert cohort.facts["halved_tuning"] and case.heard("divided into tuning and held_out")


def test_a_rows_own_split_wins_and_one_file_is_enough(tmp_path):
    case = Case(tmp_path, train=[*rows(0, 10), *rows(10, 14, split="tuning"), *rows(14, 20, split="held_out")])
    cohort = case.prepare()
    assert [cohort.count(split) for split in ("train", "tuning", "held_out")] == [10, 4, 6]


def test_contradicting_own_splits_are_refused_before_anything_is_committed(tmp_path):
    case = Case(
        tmp_path, train=[row(1, subject_id="p", split="train"), row(2, subject_id="p", split="held_out"), *rows(4, 8)]
    )
    with pytest.raises(DataError, match=r"train.json:2: the first of 1 visits"):
        case.prepare()
    assert not list(tmp_path.rglob("artifact.json"))


def test_a_subject_of_train_takes_its_later_visits_with_it_and_that_is_said(tmp_path):
    case = Case(tmp_path, train=rows(0, 10), tuning=rows(8, 14), held_out=[*rows(0, 2), *rows(20, 24)])
    cohort = case.prepare()
    assert cohort.facts["moved"] == 4 and case.heard("4 visits moved")
    assert all(len(found) == 1 for found in splits_of(cohort, "subject_id").values())


def test_without_subjects_identical_inputs_stay_together_and_leaking_is_said(tmp_path):
    def repeated(start, stop):
        return [row(n, (DISEASES[n % 4],), input=f"text {n % 17}") for n in range(start, stop)]

    case = Case(tmp_path, train=repeated(0, 60), tuning=repeated(60, 120))
    cohort = case.prepare(split="public")
    assert all(len(found) == 1 for found in splits_of(cohort, "input").values())
    assert case.heard("splitting by visit: patients may leak") and cohort.facts["grouped_by"] == "input"
    assert len({visit["visit_id"] for visit in stored(cohort)}) == 120


def test_public_splits_everything_72_8_20_and_says_that_the_teacher_saw_it(tmp_path):
    case = Case(tmp_path, train=rows(0, 1500), tuning=rows(1500, 2000, split="train"))
    cohort = case.prepare(split="public", shard_rows=1000)
    shares = [cohort.count(split) / 2000 for split in ("train", "tuning", "held_out")]
    assert shares == pytest.approx([0.72, 0.08, 0.20], abs=0.03)
    assert cohort.facts["teacher_saw_held_out"] is True and case.heard("teacher_saw_held_out")
    assert all(len(found) == 1 for found in splits_of(cohort, "subject_id").values())


def test_unlabeled_visits_have_shards_of_their_own(tmp_path):
    case = Case(tmp_path, train=[*rows(0, 10), *rows(10, 15, output=None)], held_out=rows(20, 24))
    cohort = case.prepare()
    assert cohort.count("train") == 10 and cohort.count("train", labeled=False) == 5
    for shard in cohort.shards:
        assert all((labels is not None) == shard.labeled for labels in cohort.read(shard)["labels"].to_pylist())


BAD = [{"input": MARKER}, row(9, input=MARKER, split=MARKER), row(9, input=f"{MARKER} 2", output=MARKER)]


def test_too_many_bad_rows_stop_the_run_with_places_and_without_patient_text(tmp_path):
    case = Case(tmp_path, train=[*rows(0, 4), *BAD], held_out=rows(10, 14))
    with pytest.raises(DataError) as caught:
        case.prepare(max_bad_rows=2)
    message = str(caught.value)
    assert (
        "3 of 11 rows" in message
        and "train.json:5" in message
        and quarantine_file(case.root) in message
        and "\n" not in message
    )
    listed = Path(quarantine_file(case.root)).read_text()
    assert [json.loads(line)["location"].rsplit(":")[-1] for line in listed.splitlines()] == ["5", "6", "7"]
    assert not list(tmp_path.rglob("artifact.json"))
    cohort = case.prepare(max_bad_rows=3)
    assert cohort.facts["quarantined"] == 3 and case.said[0] == "visits: read 11 = kept 8 + quarantined 3"
    assert MARKER not in message + listed + "".join(case.said) + "".join(
        p.read_text() for p in tmp_path.rglob("artifact.json")
    )
    with pytest.raises(DataError, match="3 of 11 rows"):
        case.prepare(max_bad_rows=0)  # stored visits are no way round the limit


def test_a_repeated_visit_id_is_quarantined_across_files(tmp_path):
    case = Case(
        tmp_path,
        train=[row(1, visit_id="a"), row(2, visit_id="b")],
        held_out=[row(3, visit_id="a"), row(4, visit_id=7)],
    )
    cohort = case.prepare(max_bad_rows=1)
    assert [visit["visit_id"] for visit in stored(cohort)] == ["7", "a", "b"]
    assert Path(quarantine_file(case.root)).read_text().count("held_out.json:1") == 1


def test_derived_ids_follow_content_and_identical_rows_differ(tmp_path):
    ids = {}
    for name, found in {"a": [row(1)] * 50 + [row(2)], "b": [row(2)] + [row(1)] * 20}.items():
        (tmp_path / name).mkdir()
        cohort = Case(tmp_path / name, train=found, held_out=[row(3)]).prepare()
        assert len({visit["visit_id"] for visit in stored(cohort)}) == len(found) + 1
        ids[name] = {visit["visit_id"] for visit in stored(cohort)}
    assert ids["b"] < ids["a"]


def test_the_same_command_again_opens_the_stored_visits_and_says_the_same(tmp_path):
    case = Case(tmp_path, train=[*rows(0, 30), {}], tuning=rows(30, 60))
    first = case.prepare(max_bad_rows=1)
    said, times = case.said, {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    second = case.prepare(max_bad_rows=1)
    assert second == first and case.said == said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == times


def test_a_lost_part_is_made_again_with_equal_bytes(tmp_path):
    case = Case(tmp_path, train=rows(0, 30), held_out=rows(30, 40))
    first = case.prepare()
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    next(iter(contents)).unlink()
    assert case.prepare() == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == contents


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"shard_rows": 8}, "data.shard_rows"),
        ({"split": "public"}, "data.split"),
        ({"train": "other"}, "data.train"),
    ],
)
def test_other_input_is_refused_with_the_field_named(tmp_path, change, field):
    case = Case(tmp_path, train=rows(0, 30), tuning=rows(30, 60))
    case.prepare()
    if "train" in change:
        change = {"train": write_jsonl(tmp_path / "other.json", rows(0, 29))}
    with pytest.raises(ArtifactError, match=f"made with {field}="):
        case.prepare(**change)


def test_a_seed_that_splits_nothing_changes_nothing(tmp_path):
    case = Case(tmp_path, train=rows(0, 30), held_out=rows(30, 40))
    assert case.prepare(seed=1) == case.prepare(seed=2)


lines = st.lists(
    st.binary(max_size=20) | st.builds(row, st.integers(0, 9)).map(lambda r: json.dumps(r).encode()), max_size=12
)


@settings(max_examples=25)
@given(lines)
def test_read_is_kept_plus_quarantined_whatever_the_file_holds(tmp_path_factory, found):
    case = Case(tmp_path_factory.mktemp("any"), train=rows(10, 14), held_out=rows(14, 16))
    with open(case.files["train"], "ab") as file:
        file.write(b"\n".join(found))
    cohort = case.prepare(max_bad_rows=100)
    facts = cohort.facts
    assert (
        facts["read"]
        == facts["kept"] + facts["quarantined"]
        == 4 + sum(bool(line.strip()) for line in b"\n".join(found).split(b"\n")) + 2
    )
    assert len(Path(quarantine_file(case.root)).read_text().splitlines()) == facts["quarantined"]
    assert (
        sum(pq.read_metadata(path).num_rows for path in (case.folder / "artifacts" / "visits").glob("*.parquet"))
        == facts["kept"]
    )
