"""The input sentence for columns of visits, against ckd.visits.grammar for one visit."""

import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.ehr.text import clauses, clean, inputs, ordered
from ckd.visits.grammar import render_input, treatment_clause
from ckd.visits.labels import DISEASES

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
names = st.lists(
    st.one_of(anything.filter(bool), st.sampled_from(["None", "A, B", "{}", "Insulin"])), max_size=4, unique=True
)
tables = st.dictionaries(st.sampled_from([*DISEASES, "Gout"]), names, max_size=5)
masks = st.lists(st.integers(0, 2 ** len(DISEASES) - 1), max_size=5)
SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"


def frame(names_of_visits, dtype=pl.String):
    rows = [(visit, name) for visit, names in enumerate(names_of_visits) for name in names]
    return pl.DataFrame(rows, schema={"visit": pl.UInt32, "name": dtype}, orient="row")


def labels_of(mask):
    return [disease for k, disease in enumerate(DISEASES) if mask >> k & 1]


@given(st.lists(st.tuples(names, names, names, tables), max_size=5), st.sampled_from([pl.String, pl.Categorical]))
@example([([], [], [], {}), (["Shock"], [], [], {"Shock": ["Drug"]})], pl.String)
def test_inputs_are_those_of_the_grammar_byte_for_byte(visits, dtype):
    columns = [frame([visit[i] for visit in visits], dtype) for i in range(3)]
    clause = pl.Series([treatment_clause(visit[3]) for visit in visits], dtype=pl.String)
    assert inputs(len(visits), *columns, clause).to_list() == [render_input(*visit) for visit in visits]


@given(masks, tables)
@example([0, 1, 2**25 - 1], dict.fromkeys(DISEASES, ("Drug",)))
def test_clauses_name_the_current_labels_that_have_drugs_in_label_order(current, table):
    expected = [treatment_clause({d: table[d] for d in labels_of(mask) if table.get(d)}) for mask in current]
    assert clauses(pl.Series(current, dtype=pl.UInt32), table).to_list() == expected


rows = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", "ü", "None"]), st.integers(-2, 2)), max_size=25)
NAMES = pl.Enum(["a", "b", "ü", "None"])


def first_uses(rows):
    """The reference: rows of (visit, name, place within the visit), stable."""
    return list(dict.fromkeys(row[:2] for row in sorted(rows, key=lambda row: (row[0], row[2]))))


def keyed(rows, dtype=pl.String):
    frame = pl.DataFrame(rows, schema={"visit": pl.UInt32, "name": dtype, "within": pl.Int64}, orient="row")
    return frame.select("visit", "name", key=pl.col("visit").cast(pl.Int64) * 2**32 + pl.col("within"))


@given(rows, st.sampled_from([pl.String, NAMES]))
def test_names_stand_once_in_order_of_first_use(rows, dtype):
    assert ordered(keyed(rows, dtype)).rows() == first_uses(rows)


def test_thousands_of_rows_of_equal_keys_stay_in_their_order():
    rows = [(i % 7, f"name {i % 900}", i % 5) for i in range(6000)]
    assert ordered(keyed(rows)).rows() == first_uses(rows)


@given(
    st.text(
        st.one_of(
            st.sampled_from(SPACES), st.sampled_from("ab,\u200b\ufeff"), st.characters(exclude_categories=["Cs"])
        ),
        max_size=12,
    )
)
@example(SPACES)
@example(f"{SPACES}a{SPACES}b{SPACES}")
def test_clean_collapses_white_space_as_python_does(text):
    assert pl.select(clean(pl.lit(text))).item() == (" ".join(text.split()) or None)


def test_every_white_space_character_of_python_is_white_space():
    spaces = [chr(i) for i in range(0x110000) if chr(i).isspace()]
    found = pl.DataFrame({"text": [f"{space}a{space}b{space}" for space in spaces]}).select(clean(pl.col("text")))
    assert found.to_series().to_list() == ["a b"] * len(spaces)
    assert pl.select(clean(pl.lit(None, pl.String))).item() is None
