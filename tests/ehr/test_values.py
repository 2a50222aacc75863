"""How a cell is read, whatever the layout: times, ids, numbers, flags, ages, words for nothing, words for the sex."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.ehr import sex, values
from ckd.ehr.canonical import CELLS, EMPTY_BITS, ODD
from ckd.ehr.cells import Cells
from ckd.errors import ConfigError
from ckd.visits.subgroups import NOTHING

at = datetime.fromisoformat
PLAIN = "2150-01-02 03:04:05"


def text(*cells):
    return pl.Series(cells, dtype=pl.String)


def read(table, name, cells):
    """The values of one column, its unread cells and those of words for nothing."""
    reader = Cells(table, {name: (name, cells.dtype)}, "x.parquet")
    frame, bit = reader.read(cells.alias(name).to_frame()), 1 << CELLS[table].index(name)
    unread, empty = (frame.select(pl.col(ODD) & b != 0).to_series().to_list() for b in (bit, bit << EMPTY_BITS))
    return frame[name].to_list(), unread, empty


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        (PLAIN, at(PLAIN)),
        ("2150-01-02T03:04:05", at(PLAIN)),
        ("2150-01-02T03:04:05.250Z", at("2150-01-02 03:04:05.250")),
        ("2150-01-02 03:04:05,5", at("2150-01-02 03:04:05.500")),
        ("2150-01-02 03:04:05 UTC", at(PLAIN)),
        ("2150-01-02 03:04:05+00:00", at(PLAIN)),
        ("2150-01-02 05:04:05+02", at(PLAIN)),
        ("2150-01-02 02:34:05-0030", at(PLAIN)),
        ("2150/1/2 3:04", at("2150-01-02 03:04")),
        (" 2150-01-02 ", at("2150-01-02")),
        ("02.01.2150", None),
        ("01/02/2150 03:04", None),
        ("2150-02-30", None),
        ("2150-01-02 03:04:05 p.m.", None),
        ("1546300800", None),
        ("20500102", None),
        ("9999-12-31 00:00:00", None),
        ("0001-01-01", None),
    ],
)
def test_a_time_is_read_in_any_iso_way_and_never_guessed(cell, wanted):
    assert values.times(text(cell, PLAIN, None)).to_list() == [wanted, at(PLAIN), None]


@given(st.datetimes(at("1700-01-01"), at("2999-12-31")), st.sampled_from(["seconds", "milliseconds", "minutes"]))
def test_a_time_is_read_as_python_reads_it(time, unit):
    for separator in ("T", " "):
        cell = time.isoformat(separator, unit)
        assert values.times(text(cell)).to_list() == [datetime.fromisoformat(cell)]


def test_the_years_that_stand_for_no_time_are_unread_in_parquet_too():
    cells = pl.Series([date(9999, 12, 31), date(2150, 1, 1), None])
    assert read("visits", "end", cells) == ([None, at("2150-01-01"), None], [True, False, False], [False] * 3)
    zoned = pl.Series([datetime(2150, 1, 2, 3, 4, 5, tzinfo=UTC)]).dt.convert_time_zone("Europe/Berlin")
    assert read("visits", "end", zoned)[0] == [at(PLAIN)]


def test_ids_meet_however_they_are_written():
    guid = "a1b2c3d4-1111-2222-3333-444455556666"
    cells = text("123.0", " 123 ", "123", guid.upper(), f"{{{guid}}}", "A-7", "1.5", "007")
    assert values.ids(cells).to_list() == ["123", "123", "123", guid, guid, "A-7", "1.5", "007"]
    for number in (123, 123.0, Decimal(123)):
        assert read("visits", "visit_id", pl.Series([number, None]))[0] == ["123", None]
    # Digits are lost in such a number, and a half is no id.
    lost = read("visits", "visit_id", pl.Series([2.0**60, 1.5, float("nan")]))
    assert lost == ([None] * 3, [True, True, False], [False, False, True])


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        *(
            ("61", "61"),
            ("> 89", "90"),
            ("90+", "90"),
            (">=90", "90"),
            ("95 J.", "95"),
            ("61 years", "61"),
            ("300", "300"),
        ),
        *(("6 months", None), ("-5", None), ("999", None), ("old", None), ("1e9", None)),
    ],
)
def test_an_age_may_have_its_unit_with_it(cell, wanted):
    assert values.ages(text(cell, "7")).to_list() == [wanted, "7"]


def test_flags_are_yes_or_no_in_text_and_numbers():
    cells = text("1", "0", "1.0", "TRUE", " n ", None, "2", "ja", "nein")
    assert values.flags(cells).to_list() == [True, False, True, True, False, False, None, True, False]
    assert read("visits", "expired", pl.Series([1.0, 0.0, 0.5, None]))[0] == [True, False, None, False]
    assert read("visits", "expired", pl.Series([1, 0, 2]))[0] == [True, False, None]


@pytest.mark.parametrize("word", [*NOTHING, " NULL "])
@pytest.mark.parametrize(("table", "name"), [("visits", "insurance"), ("visits", "start"), ("medications", "drug")])
def test_a_word_for_nothing_is_an_empty_cell_that_is_counted(table, name, word):
    if name == "insurance" or word == word.strip():
        assert read(table, name, text(word, None, "")) == ([None] * 3, [False] * 3, [True, False, False])


def test_only_what_was_there_and_cannot_be_read_is_unread():
    assert read("visits", "start", text(PLAIN, "soon", "", None, "NULL")) == (
        [at(PLAIN), None, None, None, None],
        [False, True, False, False, False],
        [False, False, False, False, True],
    )
    assert read("diagnoses", "seq", text("1", "2.0", "first", " 3 ")) == (
        [1, 2, None, 3],
        [False, False, True, False],
        [False] * 4,
    )


def shown(cells, given=None):
    frame = pl.DataFrame({"sex": cells, "place": range(len(cells))}, schema={"sex": pl.String, "place": pl.UInt64})
    found = sex.counted(frame, given or {})
    sex.require_one_meaning([found["words"]], given or {})
    return frame.select(sex.as_f_or_m("sex", given or {})).to_series().to_list(), found.get("other")


@pytest.mark.parametrize(
    "words", [("F", "M"), ("w", "m"), ("female", "Male "), ("K", "M"), ("2", "1"), ("F", "H"), ("Frau", "Männlich")]
)
def test_women_are_f_and_men_m_in_any_of_the_stated_words(words):
    assert shown([*words, None, "divers"]) == (["F", "M", None, "divers"], {"rows": 1, "place": 3})


@pytest.mark.parametrize("words", [("M", "H"), ("m", "V"), ("0", "1")])
def test_words_that_may_mean_a_woman_or_a_man_are_asked_for(words):
    with pytest.raises(
        ConfigError, match=r"ingest\.sex_words: the sex is written . and ., so which is a woman is open"
    ):
        shown(words)
    woman, man = words
    assert shown(words, {woman: "F", man: "M"}) == (["F", "M"], None)


def test_offsets_lead_to_the_same_instant():
    east = values.times(text("2150-01-01 01:00:00+02:00"))[0]
    assert east == at("2150-01-01 00:00") - timedelta(hours=1)
