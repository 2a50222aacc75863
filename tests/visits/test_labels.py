"""The 25 labels and the public output sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.visits.labels import (
    CCS_IDS,
    DISEASES,
    NUM_LABELS,
    OUTPUT_PREFIX,
    NoDiseaseNamedError,
    UnknownDiseaseError,
    encode,
    names,
    parse_output,
    render_output,
)

label_sets = st.lists(st.booleans(), min_size=NUM_LABELS, max_size=NUM_LABELS).map(tuple)


@given(label_sets)
def test_what_is_rendered_is_parsed_back(present):
    assert parse_output(render_output(present)) == present
    assert encode(names(present)) == present


@given(label_sets, st.randoms())
def test_order_repetition_and_spaces_do_not_matter(present, shuffler):
    listed = names(present) * 2
    shuffler.shuffle(listed)
    assert parse_output(f"  {OUTPUT_PREFIX}{' ,  '.join(listed) or 'None'} \n") == present


def test_there_are_25_labels_in_the_public_order_with_ids_of_their_own():
    assert NUM_LABELS == 25 == len(set(CCS_IDS.values()))
    assert list(DISEASES) == sorted(DISEASES)


def test_none_is_the_empty_set():
    assert render_output((False,) * NUM_LABELS) == OUTPUT_PREFIX + "None"
    assert parse_output(OUTPUT_PREFIX + "None") == parse_output("None") == (False,) * NUM_LABELS


@pytest.mark.parametrize("output", ["", " \n", OUTPUT_PREFIX, OUTPUT_PREFIX.strip(), OUTPUT_PREFIX + " , ,"])
def test_a_sentence_that_ends_before_the_names_is_refused(output):
    with pytest.raises(NoDiseaseNamedError):
        parse_output(output)


@pytest.mark.parametrize(
    ("output", "position"), [("Shock, SECRET", 1), ("None, Shock", 0), ("shock", 0), ("Shock, None", 1)]
)
def test_an_unknown_name_is_refused_by_position_and_not_quoted(output, position):
    with pytest.raises(UnknownDiseaseError) as caught:
        parse_output(OUTPUT_PREFIX + output)
    assert caught.value.position == position
    assert "SECRET" not in str(caught.value)
