"""The public input sentence, written and read back."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.visits.grammar import OPERATION, TREATMENT, diseases_in_treatment_clause, render_input
from ckd.visits.labels import DISEASES, encode

names = st.lists(st.sampled_from(["Aspirin", "Ins. catheter", "None of these", "D5W", "Shock are rare"]), max_size=3)
treated = st.dictionaries(st.sampled_from([*DISEASES, "Gout", "Anemia; unspecified"]), names.filter(bool), max_size=6)


@given(names, names, names, treated)
def test_the_diseases_of_a_rendered_clause_are_read_back(diseases, drugs, operations, treatments):
    text = render_input(diseases, drugs, operations, treatments)
    assert diseases_in_treatment_clause(text) == encode(d for d in treatments if d in DISEASES)


def test_the_sentence_is_the_public_one_byte_for_byte():
    treatments = {"Shock": ["A", "B"], "Pneumonia": ["C"]}
    assert render_input(["Shock"], [], ["Op"], treatments) == (
        "The patient-acquired disease is Shock. The patient had used the following medication: None. "
        "The surgical operation performed by the patient: Op. "
        "The medications that maybe have therapeutic effect on Shock are A, B; "
        "The medications that maybe have therapeutic effect on Pneumonia are C."
    )
    assert render_input([], [], [], {}).endswith("by the patient: None. None.")


def test_a_text_without_the_clause_says_nothing_of_the_present():
    for text in (
        "",
        "free text. None.",
        "The surgical operation performed by the patient: None.",
        "The surgical operation performed by the patient: Op.",
    ):
        assert diseases_in_treatment_clause(text) is None


_BLANKS = st.text(" \t\n\u00a0", max_size=3)


@given(
    st.tuples(
        st.sampled_from(["", OPERATION, OPERATION.strip(), "None", "x", "."]),
        st.lists(st.sampled_from([".", "None", OPERATION, "x", " ", "\n"]), max_size=5).map("".join),
        st.sampled_from([".", "", "None."]),
        _BLANKS,
        st.sampled_from(["None", "none", "", "NoneNone"]),
        _BLANKS,
        st.sampled_from([".", "", ".."]),
        _BLANKS,
    )
)
def test_an_empty_clause_is_seen_where_its_regular_expression_saw_it(pieces):
    text = "".join(pieces)
    once = re.compile(re.escape(OPERATION.strip()) + r".*\.\s*None\s*\.?\s*\Z", re.DOTALL)
    wanted = encode(()) if once.search(text) else None
    assert TREATMENT in text or diseases_in_treatment_clause(text) == wanted


@pytest.mark.parametrize("tail", [" " * 400_000, ". " * 200_000, "\n" * 400_000 + "x", " None" * 80_000])
def test_a_long_tail_takes_time_in_proportion(tail):
    started = time.monotonic()
    for start in ("None", f"{OPERATION}None.None"):
        diseases_in_treatment_clause(start + tail)
    assert time.monotonic() - started < 0.5
