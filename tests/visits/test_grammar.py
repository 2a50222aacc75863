"""The public input sentence, written and read back."""

from hypothesis import given
from hypothesis import strategies as st

from ckd.visits.grammar import diseases_in_treatment_clause, render_input
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
