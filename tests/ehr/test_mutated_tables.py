"""A column that is written otherwise never changes a cohort in silence (table_mutations.py says how that is judged)."""

from collections import Counter

import pytest

from tests.ehr.mutated_sources import LAYOUTS, OF_COLUMN
from tests.ehr.table_mutations import KINDS, mutation, run, verdict

SEEDS = range(50)


@pytest.fixture(scope="module")
def known():
    """The cohorts of the plain tables, each made once."""
    return {}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_table_gives_the_plain_cohort_a_refusal_or_a_count(tmp_path_factory, known, seed):
    kind, what = verdict(seed, tmp_path_factory.mktemp("mutated"), known)
    assert kind in ("equal", "refused", "told"), what


def test_the_seeds_reach_every_kind_of_column_and_every_outcome(tmp_path_factory, known):
    found = Counter(mutation(seed)[3].split(": ")[0] for seed in range(2000))
    assert set(found) == set(LAYOUTS)
    assert {*OF_COLUMN.values(), "event"} == set(KINDS)
    outcomes = {verdict(seed, tmp_path_factory.mktemp("mutated"), known)[0] for seed in range(12)}
    assert outcomes == {"equal", "refused", "told"}


@pytest.mark.faults
def test_three_hundred_mutations_more_change_no_cohort_in_silence():
    assert run(["--from", "50", "--count", "300"]) == 0
