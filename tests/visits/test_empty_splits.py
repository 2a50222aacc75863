"""Splits that are empty or too small: refused with a remedy, or said aloud."""

import pytest

from ckd.errors import DataError
from ckd.visits.labels import CCS25, DISEASES
from ckd.visits.prepare import FEW_TUNING, MANY_GROUPS, _Placed, _require_both
from ckd.visits.visit import Visit
from testbed.rows import row, rows
from tests.visits.case import Case

DIVIDED = "divides the labelled subjects (without subject_id: inputs), "


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
            "held_out visit: so halving data.tuning with seed={seed} " + DIVIDED + "1 in number",
        ),
        (
            {"train": rows(0, 8)},
            "public",
            "held_out visit: so data.split=public with seed={seed} " + DIVIDED + "4 in number",
        ),
        (
            {"train": rows(0, 4)},
            "public",
            "one subject only: so data.split=public with seed={seed} " + DIVIDED + "2 in number",
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


def hiding(names, number, subject):
    return row(number, subject_id=subject) | {"unknown_labels": list(names)}


def test_a_label_that_is_known_for_fewer_than_two_train_subjects_is_refused_by_its_name(tmp_path):
    one, two = DISEASES[3], DISEASES[7]  # known for subject a alone, and for nobody
    train = [hiding([two], 0, "a"), hiding([two], 1, "a"), hiding([one, two], 2, "b"), hiding([one, two], 3, "c")]
    with pytest.raises(DataError) as caught:
        Case(tmp_path, train=train, held_out=rows(10, 14)).prepare()
    said = str(caught.value)
    assert f"2 labels ('{one}', '{two}') are known for train visits of fewer than 2 subjects" in said
    assert "\n" not in said and not list(tmp_path.rglob("artifact.json"))


def test_a_label_that_is_never_true_or_never_false_in_train_is_said_and_said_again(tmp_path):
    others = tuple(DISEASES[2:])
    train = [row(n, (DISEASES[0], *(others if n % 2 else ())), subject_id=f"s{n}") for n in range(6)]
    case = Case(tmp_path, train=train, held_out=rows(20, 24))
    for _ in range(2):
        facts = case.prepare().facts
        assert (facts["never_true"], facts["never_false"]) == ([DISEASES[1]], [DISEASES[0]])
        assert case.heard(f"label '{DISEASES[1]}' is never true in train")
        assert case.heard(f"label '{DISEASES[0]}' is never false in train")


def test_tuning_visits_that_differ_only_in_what_is_unknown_have_one_class(tmp_path):
    tuning = [hiding([DISEASES[n % 5]], 20 + n, f"t{n}") for n in range(10)]
    case = Case(tmp_path, train=rows(0, 10), tuning=tuning, held_out=rows(100, 104))
    assert case.prepare().facts["tuning"] == "one_class"


def test_groups_are_remembered_up_to_a_bound(tmp_path):
    placed = _Placed(CCS25)
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
