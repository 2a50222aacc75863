"""From input files to the stored cohort: identities, splits, counts, refusals, resume."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd.config import Config
from ckd.errors import ArtifactError, DataError
from ckd.visits.labels import DISEASES
from ckd.visits.prepare import FEW_TUNING, MANY_GROUPS, _Placed, _require_both, prepare, quarantine_file
from ckd.visits.visit import Visit
from testbed.rows import MARKER, row, rows, write_jsonl


class Case:
    """A run in a temporary folder: its files, its configuration, what was said."""

    def __init__(self, folder: Path, **found: list[dict]) -> None:
        self.folder, self.files = (
            folder,
            {name: write_jsonl(folder / f"{name}.json", given) for name, given in found.items()},
        )
        self.said: list[str] = []

    def config(self, seed=42, **data) -> Config:
        data = {"shard_rows": 7, **self.files, **data}
        return Config.model_validate({"run": {"artifacts": str(self.folder / "artifacts")}, "data": data, "seed": seed})

    def prepare(self, **changes):
        self.said = []
        return prepare(self.config(**changes), self.said.append)

    def heard(self, words: str) -> bool:
        return any(words in line for line in self.said)


def stored(cohort):
    return [visit for shard in cohort.shards for visit in cohort.read(shard).to_pylist()]


def splits_of(cohort, key):
    found = {}
    for visit in stored(cohort):
        found.setdefault(visit[key], set()).add(visit["split"])
    return found


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


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"train": rows(0, 4, output=None), "held_out": rows(4, 8)}, "no labelled train visit"),
        ({"train": rows(0, 4)}, "no labelled held_out visit; give data.held_out"),
        ({"train": rows(0, 4), "held_out": rows(0, 4)}, "4 visits were moved"),
        ({"train": rows(0, 4), "tuning": rows(0, 4)}, "4 visits were moved .* give data.held_out, or a 'split' column"),
        (
            {"train": rows(0, 2), "held_out": rows(4, 8)},
            "one subject .* expected at least 2, .* give visits of more patients",
        ),
        ({"train": [row(1), row(1)], "held_out": rows(4, 8)}, "one input"),
        ({"train": [*rows(0, 2), *rows(2, 4, output=None)], "held_out": rows(4, 8)}, "one subject"),
        ({}, "data.train is empty"),
    ],
)
def test_an_empty_train_or_held_out_is_refused_with_the_remedy(tmp_path, found, says):
    with pytest.raises(DataError, match=says) as caught:
        Case(tmp_path, **found).prepare()
    assert caught.value.exit_code == 2 and not list(tmp_path.rglob("artifact.json"))


@pytest.mark.parametrize(
    ("found", "split", "says"),
    [
        (
            {"train": rows(0, 8), "tuning": rows(10, 12)},
            "files",
            "held_out visit: so halving data.tuning with seed={seed} divides the labelled subjects (without subject_id: inputs), 1 in number",
        ),
        (
            {"train": rows(0, 8)},
            "public",
            "held_out visit: so data.split=public with seed={seed} divides the labelled subjects (without subject_id: inputs), 4 in number",
        ),
        (
            {"train": rows(0, 4)},
            "public",
            "one subject only: so data.split=public with seed={seed} divides the labelled subjects (without subject_id: inputs), 2 in number",
        ),
    ],
)
def test_a_split_that_the_seed_left_empty_is_named_with_a_remedy_that_is_none_of_what_was_given(
    tmp_path, found, split, says
):
    refused = []
    for seed in range(12):
        (tmp_path / str(seed)).mkdir()
        try:
            Case(tmp_path / str(seed), **found).prepare(split=split, seed=seed)
        except DataError as error:
            refused.append((seed, str(error)))
    named = [message for seed, message in refused if says.format(seed=seed) in message]
    assert named and all(
        "give visits of more patients, another seed, or data.held_out" in message for _, message in refused
    )
    assert not any("data.tuning alone" in message or "or data.split=public" in message for _, message in refused)


def test_groups_are_remembered_up_to_a_bound(tmp_path):
    placed = _Placed()
    for n in range(3 * MANY_GROUPS):
        placed.add("train", Visit(str(n), "say", f"text {n}", (False,) * len(DISEASES)), seeded=True)
    assert len(placed.train_groups) == 2 and len(placed.seeded_groups) == MANY_GROUPS
    with pytest.raises(DataError, match=f"{MANY_GROUPS} or more in number"):
        _require_both(placed, 0, Case(tmp_path).config(split="public"))


@pytest.mark.parametrize(
    ("tuning", "fact", "says"),
    [
        ([], "empty", "no labelled tuning visit"),
        ([row(n, (DISEASES[0],), subject_id=f"t{n}") for n in range(60)], "one_class", "one class only"),
        (rows(20, 30), "ok", f"fewer than {FEW_TUNING}"),
        (rows(20, 20 + FEW_TUNING), "ok", ""),
    ],
)
def test_a_tuning_split_that_cannot_choose_is_said_aloud_and_kept_as_a_fact(tmp_path, tuning, fact, says):
    files = {"train": rows(0, 10), "held_out": rows(100, 104), **({"tuning": tuning} if tuning else {})}
    case = Case(tmp_path, **files)
    cohort = case.prepare()
    assert cohort.facts["tuning"] == fact and cohort.facts["tuning_visits"] == len(tuning)
    assert case.heard(says) if says else not case.heard("fewer than")


BAD = [{"input": MARKER}, row(9, input=MARKER, split=MARKER), row(9, input=f"{MARKER} 2", output=MARKER)]


def test_too_many_bad_rows_stop_the_run_with_places_and_without_patient_text(tmp_path):
    case = Case(tmp_path, train=[*rows(0, 4), *BAD], held_out=rows(10, 14))
    with pytest.raises(DataError) as caught:
        case.prepare(max_bad_rows=2)
    message = str(caught.value)
    assert (
        "3 of 11 rows" in message
        and "train.json:5" in message
        and quarantine_file(case.config()) in message
        and "\n" not in message
    )
    listed = Path(quarantine_file(case.config())).read_text()
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
    assert Path(quarantine_file(case.config())).read_text().count("held_out.json:1") == 1


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
    assert len(Path(quarantine_file(case.config())).read_text().splitlines()) == facts["quarantined"]
    assert (
        sum(pq.read_metadata(path).num_rows for path in (case.folder / "artifacts" / "visits").glob("*.parquet"))
        == facts["kept"]
    )
