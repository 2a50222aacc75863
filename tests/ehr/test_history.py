"""`ingest.history`: earlier visits behind the current one, against plain Python; nothing later reaches a text, and what
is cut off a long text is the oldest visit first, for teacher and student alike."""

import json
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ckd.ehr.earlier import before, tellable
from ckd.ehr.pairs import REASONS, Rules, chain
from ckd.ehr.synthetic.tables import write_tables
from ckd.ehr.text import sentences, with_earlier
from ckd.ehr.wording import Wording
from ckd.prompts import Prompter
from ckd.student.tiny import make_student
from ckd.student.tokens import tokenize
from ckd.visits.grammar import EarlierVisit, diseases_in_treatment_clause, render_input
from jobs.cli import main
from tests.ehr.ehr_reference import ABOUT_THE_NEXT
from tests.ehr.ehr_tables import write_mimic3
from tests.ehr.ingest_reference import cohort_by_hand, cohort_files, ingest, random_tables, read_tables, rows_of
from tests.ehr.test_ehr_text import frame, names
from tests.ehr.test_ingest_leakage import OPTIONS, last_stays, with_other_codes

SMALL = ("ingest.min_support=1", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
BY_HAND = {"m": 1, "folds": 2, "tuning": 0.2, "held_out": 0.3}
CURRENT = render_input(["Shock"], ["Zinc", "Iron"], [], {"Shock": ["Zinc"]})

stays = st.lists(st.tuples(names, names, names), min_size=1, max_size=5)


@given(stays.flatmap(lambda told: st.tuples(st.just(told), links(len(told)))))
@example(([], [[], []]))
def test_earlier_visits_stand_behind_a_text_as_the_grammar_writes_them(case):
    told, links_of_visits = case
    columns = [frame([stay[i] for stay in told]) for i in range(3)]
    rows = [(visit, *link) for visit, some in enumerate(links_of_visits) for link in some]
    schema = {"visit": pl.UInt32, "stay": pl.UInt32, "days": pl.Int64}
    texts = pl.Series([CURRENT] * len(links_of_visits), dtype=pl.String)
    found = with_earlier(texts, sentences(len(told), *columns), pl.DataFrame(rows, schema=schema, orient="row"))
    wanted = [[EarlierVisit(days, *told[stay]) for stay, days in some] for some in links_of_visits]
    assert found.to_list() == [render_input(["Shock"], ["Zinc", "Iron"], [], {"Shock": ["Zinc"]}, w) for w in wanted]


def links(count):
    link = st.tuples(st.integers(0, count - 1), st.integers(1, 4000))
    return st.lists(st.lists(link, max_size=3), max_size=4)


@given(names, names, names, st.lists(st.builds(EarlierVisit, st.integers(1, 4000), names, names, names), max_size=3))
def test_the_clause_that_is_read_back_is_the_current_visit_s(diseases, drugs, operations, earlier):
    for treated in ({}, {"Shock": ["Zinc"]}):
        text = render_input(diseases, drugs, operations, treated, earlier)
        assert diseases_in_treatment_clause(text) == diseases_in_treatment_clause(
            render_input(diseases, drugs, operations, treated)
        )


def test_the_sentence_is_this_one():
    earlier = [EarlierVisit(12, ["Gout"], [], ["Op"]), EarlierVisit(400, [], ["Tin"], [])]
    assert render_input(["Shock"], ["Zinc", "Iron"], [], {"Shock": ["Zinc"]}, earlier) == CURRENT + (
        " 12 days before: The patient-acquired disease is Gout. The patient had used the following medication: None. "
        "The surgical operation performed by the patient: Op."
        " 400 days before: The patient-acquired disease is None. The patient had used the following medication: Tin. "
        "The surgical operation performed by the patient: None."
    )


@pytest.mark.parametrize(("seed", "most"), [(0, 1), (1, 2), (2, 50), (3, 2)])
def test_every_row_is_the_one_that_plain_python_makes(tmp_path, seed, most):
    folder = write_mimic3(tmp_path / "tables", random_tables(seed, subjects=16))
    wanted = cohort_by_hand(read_tables(folder), seed=seed, history=most, **BY_HAND)
    for count in (1, 3):
        options = (*SMALL, f"seed={seed}", f"ingest.history={most}", f"ingest.partitions={count}")
        found = ingest(folder, tmp_path / f"out{count}", *options)
        assert {visit: row["input"] for visit, row in found.items()} == {v: row["input"] for v, row in wanted.items()}
    told = [row["input"].count(" days before: ") for row in wanted.values()]
    assert max(told) == most or (most == 50 and max(told) > 2)


def test_without_the_key_a_cohort_is_what_it_was(tmp_path):
    folder = write_mimic3(tmp_path / "tables", random_tables(4))
    ingest(folder, tmp_path / "plain", *SMALL)
    ingest(folder, tmp_path / "zero", *SMALL, "ingest.history=0")
    assert cohort_files(tmp_path / "zero") == cohort_files(tmp_path / "plain")
    card = json.loads((tmp_path / "plain" / "card.json").read_text())
    assert "ingest.history" not in card["settings"]
    assert "history" not in json.loads((tmp_path / "plain" / "wording.json").read_text())
    assert main(["ingest", "mimic3", str(folder), "--out", str(tmp_path / "plain"), *SMALL, "ingest.history=1"]) == 2


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_tables(str(folder), 60, 3)
    return folder


WITH_HISTORY = (*OPTIONS, "ingest.history=2")


@pytest.fixture(scope="module")
def cohort(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort") / "out"
    return ingest(tables, out, *WITH_HISTORY), out


def test_outcomes_of_held_out_reach_no_text_but_that_of_the_visits_that_have_them(cohort, tables, tmp_path):
    rows, _ = cohort
    held_out = {row["subject_id"] for row in rows.values() if row["split"] == "held_out"}
    changed = {v for subject, visits in last_stays(tables).items() if subject in held_out for v in visits}
    after = ingest(with_other_codes(tables, tmp_path / "tables", changed), tmp_path / "out", *WITH_HISTORY)
    assert {v: row for v, row in after.items() if row["split"] != "held_out"} == {
        v: row for v, row in rows.items() if row["split"] != "held_out"
    }
    same = [visit for visit in rows if visit not in changed]
    assert [after[visit]["input"] for visit in same] == [rows[visit]["input"] for visit in same]
    assert sum(after[visit]["labels"] != rows[visit]["labels"] for visit in same) >= 5
    assert any(" days before: " in rows[visit]["input"] for visit in same)


def test_a_stay_is_told_unless_something_of_itself_excludes_it():
    reasons = [None, *REASONS]
    rows = {"subject_id": "s", "visit_id": reasons, "stay_id": reasons, "reason": reasons, "start": None, "end": None}
    chained = pl.DataFrame(rows, schema=dict.fromkeys(rows, pl.String)).with_columns(
        pl.col("visit_id", "stay_id").fill_null("a pair")
    )
    assert set(tellable(chained)["visit_id"]) == {reason or "a pair" for reason in ABOUT_THE_NEXT}


DAY = pl.duration(days=1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from(["died", "coded", "end", "gone"]))
def test_what_befalls_a_later_stay_changes_nothing_that_an_earlier_one_tells(gaps, what):
    start = pl.Series(gaps).cum_sum()
    visits = pl.DataFrame(
        {"place": range(len(gaps)), "visit_id": [f"v{n}" for n in range(len(gaps))], "day": start * 3}
    )
    begin = pl.datetime(2150, 1, 1) + pl.col("day") * DAY
    flags = {"start_bad": False, "end_bad": False, "died": False, "newborn": False, "coded": True}
    visits = visits.select(
        "place", "visit_id", subject_id=pl.lit("s"), start=begin, end=begin + 2 * DAY, **flags_of(flags)
    )
    late = pl.col("place") == len(gaps) - 1
    changes = {"died": pl.lit(True), "coded": pl.lit(False), "end": pl.col("end") + 99 * DAY}
    after = (
        visits.filter(~late)
        if what == "gone"
        else visits.with_columns(pl.when(late).then(changes[what]).otherwise(what).alias(what))
    )
    assert told_of(after, len(gaps) - 1) == told_of(visits, len(gaps) - 1)


def flags_of(flags):
    return {name: pl.lit(value) for name, value in flags.items()}


def told_of(visits, count):
    """{visit_id: [(stay, days)]} of the first `count` visits."""
    told = tellable(chain(visits, Rules(coding_delay_days=3, newborns=False)))
    all_visits = visits.select("visit_id", visit="place")
    found = before(told, all_visits, 2).join(told.select("stay", other="visit_id"), on="stay")
    named = found.join(all_visits, on="visit").sort("visit", "days")
    return {f"v{n}": named.filter(pl.col("visit_id") == f"v{n}").select("other", "days").rows() for n in range(count)}


def test_patients_as_they_are_now_have_the_texts_of_the_cohort_with_its_history(cohort, tables, tmp_path):
    rows, out = cohort
    assert main(["ingest", "mimic3", str(tables), "--out", str(tmp_path / "now"), "--like", str(out)]) == 0
    found = rows_of(tmp_path / "now")
    last = {v: row["input"] for v, row in rows.items() if row["labels"] is None and row["split"] != "train"}
    assert any(text.count(" days before: ") == 2 for text in last.values())
    assert {visit: found[visit]["input"] for visit in last} == last
    assert Wording.of(str(tmp_path / "now")).history == Wording.of(str(out)).history == 2


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_another_history_than_the_cohort_s_is_refused_in_one_line(cohort, tables, tmp_path, capsys, asked):
    words = ["ingest", "mimic3", str(tables), "--out", str(tmp_path / "now"), "--like", str(cohort[1])]
    assert main([*words, f"ingest.history={asked}"]) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line and f"ingest.history={asked}: the texts of --like {cohort[1]} were written with 2" in line


def test_a_server_refuses_codes_and_drugs_where_texts_have_a_history(cohort, tmp_path, capsys):
    words = ["serve", "--model", str(tmp_path), "--port", "0", "--like"]
    assert main([*words, str(cohort[1])]) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line and "its texts tell up to 2 earlier visits (ingest.history)" in line
    replace(Wording.of(str(cohort[1])), history=0).save(str(tmp_path))
    assert main([*words, str(tmp_path)]) == 2
    assert "no trained student" in capsys.readouterr().err


def test_the_current_visit_is_cut_only_where_no_earlier_one_is_left(teacher_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    earlier = [EarlierVisit(7, ["Gout", "Anemia"], ["Tin"], []), EarlierVisit(70, ["Cough"], [], ["Op"])]
    whole = render_input(["Shock"], ["Zinc", "Iron"], [], {"Shock": ["Zinc"]}, earlier)

    def prompt(text, length):
        return Prompter(tokenizer, length).encode(["Name the diseases."], [text])[0][0]

    make_student(str(tmp_path), [whole], 0)
    encoder = AutoTokenizer.from_pretrained(tmp_path)

    def student(text, length):
        return tokenize(encoder, pa.table({"visit_id": ["1"], "input": [text]}), length)["input_ids"][0].as_py()

    tail = tokenizer("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    for made, least, ending in ((prompt, 40, len(tail)), (student, 5, 1)):
        current, full = made(CURRENT, 9999), made(whole, 9999)
        visit = current[: len(current) - ending]
        assert full[: len(visit)] == visit and len(full) > len(current) + 9
        for length in range(max(least, len(current) - 30), len(full) + 2):
            found = made(whole, length)
            # Without room for more than the current visit: what the current one alone would be.
            assert len(found) == min(length, len(full)) and found[: len(found) - ending] == full[: len(found) - ending]
            assert found == made(CURRENT, length) if length <= len(current) else found[: len(visit)] == visit
