import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.ehr.subject_splits import decide
from ckd.errors import DataError
from ckd.ingest_config import IngestConfig
from ckd.visits.splits import choose, point
from ckd.visits.visit import SPLITS, group_key
from tests.ehr.ehr_tables import write_mimic3
from tests.ehr.ingest_reference import ingest, replaced, returning

SHARES = {"train": 0.7, "tuning": 0.1, "held_out": 0.2}


def subjects(points, labeled=None, cuts=None):
    """What assemble says of subjects."""
    return pl.DataFrame(
        {"point": points, "labeled": labeled or [True] * len(points), "cuts": cuts or [[]] * len(points)},
        schema={"point": pl.Float64, "labeled": pl.Boolean, "cuts": pl.List(pl.String)},
    )


def places(names, seed=42):
    return [point(group_key(str(name), ""), seed) for name in names]


def test_every_subject_has_the_split_of_its_hash_and_the_shares_come_out():
    names = range(4000)
    frame = subjects(places(names))
    splits = decide([frame], IngestConfig())
    found = splits.of(frame).to_list()
    assert found == [choose(group_key(str(name), ""), 42, SHARES) for name in names]
    assert splits.moved == 0
    assert all(abs(found.count(split) / 4000 - share) < 0.02 for split, share in SHARES.items())


def test_adding_subjects_moves_nobody_and_another_seed_moves_many():
    few, many = subjects(places(range(300))), subjects(places(range(3000)))
    before, after = decide([few], IngestConfig()).of(few), decide([many], IngestConfig()).of(many)
    assert after.head(300).equals(before)
    other = subjects(places(range(300), seed=43))
    assert (decide([other], IngestConfig()).of(other) != before).sum() > 80


_POINTS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40, unique=True)


@given(points=_POINTS, data=st.data())
def test_no_split_stays_without_a_labelled_subject_where_there_are_enough_and_partitions_do_not_matter(points, data):
    labeled = data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)))
    labeled[0] = True  # without any there is no cohort, see below
    frame = subjects(points, labeled)
    splits = decide([frame], IngestConfig())
    found = splits.of(frame)
    assert found.null_count() == 0
    with_labels = [split for split, known in zip(found, labeled, strict=True) if known]
    if len(with_labels) >= 3:
        assert set(with_labels) == set(SPLITS)
    if len(with_labels) >= 4:
        assert with_labels.count("train") >= 2
    cut = data.draw(st.integers(0, len(points)))
    again = decide([frame.head(cut), frame.slice(cut)], IngestConfig())
    assert (again.ends, again.moved) == (splits.ends, splits.moved)
    plain = ["train" if p < 0.7 else "tuning" if p < 0.7 + 0.1 else "held_out" for p in points]
    moved = sum(known and split != by_hash for split, by_hash, known in zip(found, plain, labeled, strict=True))
    assert splits.moved == moved


def test_a_subject_with_any_value_of_held_out_is_held_out_whole_and_tuning_comes_second():
    frame = subjects([0.1, 0.2, 0.3, 0.4, 0.95], cuts=[["A"], ["A", "B"], ["B", "C"], ["C"], []])
    config = IngestConfig(split_column="site", held_out_values=("B",), tuning_values=("C",))
    assert decide([frame], config).of(frame).to_list() == ["train", "held_out", "held_out", "tuning", "train"]


def test_a_split_without_values_is_filled_by_hash_from_the_others():
    frame = subjects([0.1, 0.5, 0.85, 0.95, 0.99, 0.2], cuts=[["A"]] * 5 + [["B"]])
    config = IngestConfig(split_column="site", held_out_values=("B",))
    assert decide([frame], config).of(frame).to_list() == ["train", "train", "train", "tuning", "tuning", "held_out"]
    config = IngestConfig(split_column="site", tuning_values=("B",))
    assert decide([frame], config).of(frame).to_list() == [
        "train",
        "train",
        "held_out",
        "held_out",
        "held_out",
        "tuning",
    ]


def test_a_value_that_only_patients_who_never_return_have_is_refused():
    frame = subjects([0.1, 0.2], labeled=[True, False], cuts=[["A"], ["B"]])
    with pytest.raises(
        DataError, match=r"ingest.held_out_values: no patient with a labelled visit has one of these 1 values in 'site'"
    ):
        decide([frame], IngestConfig(split_column="site", held_out_values=("B",)))


def test_shares_of_zero_leave_a_split_empty():
    frame = subjects([k / 20 for k in range(20)])
    assert set(decide([frame], IngestConfig(tuning_share=0)).of(frame)) == {"train", "held_out"}
    assert set(decide([frame], IngestConfig(tuning_share=0, held_out_share=0)).of(frame)) == {"train"}


def test_adding_patients_to_the_tables_moves_nobody(tmp_path):
    few = ingest(write_mimic3(tmp_path / "few", returning(150)), tmp_path / "out_few", "ingest.partitions=2")
    many = ingest(write_mimic3(tmp_path / "many", returning(400)), tmp_path / "out_many", "ingest.partitions=3")
    assert {visit: row["split"] for visit, row in few.items()} == {visit: many[visit]["split"] for visit in few}
    assert set(few) < set(many)


def test_few_patients_are_moved_by_rank_and_the_user_is_told(tmp_path, capsys):
    rows = ingest(write_mimic3(tmp_path / "tables", returning(4)), tmp_path / "out", "seed=3")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    plain = {str(subject): choose(group_key(str(subject), ""), 3, SHARES) for subject in range(1, 5)}
    found = {row["subject_id"]: row["split"] for row in rows.values()}
    assert set(found.values()) == set(SPLITS) and set(plain.values()) != set(SPLITS)
    moved = sum(found[subject] != plain[subject] for subject in plain)
    assert card["moved_subjects"] == moved > 0
    assert f"{moved} patients moved by hash rank" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "table"), [("insurance", "admissions"), ("GENDER", "patients"), ("LANGUAGE", "admissions")]
)
def test_a_column_of_the_admissions_or_the_patients_splits_whole_subjects(tmp_path, column, table):
    tables = returning(12)
    for subject in (3, 7):  # only the last of their visits has the value
        number = 2 * (subject - 1) + 1 if table == "admissions" else subject - 1
        tables = replaced(tables, table, number, **{column.lower(): "X"})
    settings = (f"ingest.split_column={column}", 'ingest.held_out_values=["X"]')
    rows = ingest(write_mimic3(tmp_path / "tables", tables), tmp_path / "out", *settings)
    assert {row["subject_id"] for row in rows.values() if row["split"] == "held_out"} == {"3", "7"}
    assert {row["split"] for row in rows.values()} == set(SPLITS)


def test_no_pair_at_all_or_none_left_for_train_is_refused():
    with pytest.raises(DataError, match="no labelled visit for the train split: no patient has one"):
        decide([subjects([0.1, 0.2], [False, False])], IngestConfig())
    everyone = IngestConfig(split_column="site", held_out_values=("a",))
    with pytest.raises(DataError, match="every patient with one has a value of ingest.held_out_values"):
        decide([subjects([0.1, 0.2], cuts=[["a"], ["a", "b"]])], everyone)
