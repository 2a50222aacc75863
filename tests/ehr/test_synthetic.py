"""The synthetic cohort: its grammar, its coding errors, its stored probabilities, and what severity and drugs do."""

import re
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest

from ckd.ehr.synthetic.ceiling import features, oracle_observed
from ckd.ehr.synthetic.patients import NUM_LABELS, generate, parameters
from ckd.ehr.synthetic.rows import CEILINGS_FILE, COHORT_FILE, table, texts, write_cohort
from ckd.errors import ArtifactError
from ckd.visits.grammar import diseases_in_treatment_clause
from ckd.visits.labels import DISEASES, INSTRUCTION
from ckd.visits.visit import visit_schema

PATIENTS = 8000
EFFECT = "The medications that maybe have therapeutic effect on .+ are .+"
GRAMMAR = re.compile(
    r"The patient-acquired disease is (?P<diseases>None|.+?)\. "
    r"The patient had used the following medication: (?P<drugs>None|.+?)\. "
    r"The surgical operation performed by the patient: (?P<operations>None|.+?)\. "
    rf"(?P<clause>None|{EFFECT}(; {EFFECT})*)\."
)


@cache
def cohort():
    return generate(PATIENTS, 11)


@cache
def rows():
    return table(generate(400, 12)).to_pylist()


def within(successes, n, p, sigmas=4.5):
    """Whether a binomial count is plausible for probability p."""
    return abs(successes - n * p) <= sigmas * np.sqrt(n * p * (1 - p)) + 1


def auroc(y, p):
    """Share of (positive, negative) pairs in order; slow and plain."""
    positive, negative = p[y], p[~y]
    return ((positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2).item()


def test_there_are_sixty_conditions_and_the_labelled_ones_come_first():
    conditions = parameters().conditions
    assert len(conditions) == 60
    assert [c.label for c in conditions[:NUM_LABELS]] == list(DISEASES)
    assert all(c.label is None for c in conditions[NUM_LABELS:])
    titles = [c.title for c in conditions[:NUM_LABELS]]
    assert len(set(titles)) < NUM_LABELS, "some labels share a three-digit title"
    names = [name for drug in parameters().drugs for name in drug]
    assert len(names) == len(set(names))


def test_equal_seeds_give_equal_cohorts_and_other_seeds_others():
    assert table(generate(60, 5)).equals(table(generate(60, 5)))
    assert not table(generate(60, 5)).equals(table(generate(60, 6)))


def test_every_text_follows_the_public_grammar():
    conditions, procedures = {c.title for c in parameters().conditions}, set(parameters().procedures)
    drugs = {name for drug in parameters().drugs for name in drug}
    commas = [title for title in conditions if ", " in title]
    for row in rows():
        match = GRAMMAR.fullmatch(row["input"])
        assert match is not None
        diseases = match["diseases"]
        for n, title in enumerate(commas):
            diseases = diseases.replace(title, f"#{n}")
        assert {
            title if title[0] != "#" else commas[int(title[1:])] for title in diseases.split(", ")
        } <= conditions | {"None"}
        assert set(match["drugs"].split(", ")) <= drugs | {"None"}
        assert set(match["operations"].split(", ")) <= procedures | {"None"}


def test_the_treatment_clause_names_current_labels_and_drugs_of_the_visit():
    for row in rows():
        named = diseases_in_treatment_clause(row["input"])
        assert named is not None
        assert all(now for now, there in zip(row["current_labels"], named, strict=True) if there)
        match = GRAMMAR.fullmatch(row["input"])
        for part in match["clause"].split("; The medications"):
            if part != "None":
                assert set(part.rpartition(" are ")[2].split(", ")) <= set(match["drugs"].split(", "))


def test_the_text_shows_no_outcome():
    encounters = generate(50, 3)
    at = np.flatnonzero(encounters.has_next)
    shown = list(texts(encounters, at))
    encounters.probability[:] = 0.5
    encounters.died[:] = ~encounters.died
    assert list(texts(encounters, at)) == shown


def test_rows_have_the_visit_schema_and_the_probabilities():
    made = table(generate(200, 4))
    assert made.schema.names == [*visit_schema(25).names, "oracle_latent"]
    assert made.select(visit_schema(25).names).schema.equals(visit_schema(25))
    columns = made.to_pydict()
    assert len(set(columns["visit_id"])) == made.num_rows
    assert set(columns["instruction"]) == {INSTRUCTION}
    assert set(columns["sex"]) == {"F", "M"}
    assert made["labels"].null_count == 0
    by_id = dict(zip(columns["visit_id"], columns["current_labels"], strict=True))
    for visit_id, labels in zip(columns["visit_id"], columns["labels"], strict=True):
        subject, _, order = visit_id.rpartition("-")
        following = f"{subject}-{int(order) + 1:02d}"
        assert following not in by_id or by_id[following] == labels


def test_last_visits_are_unlabeled_and_only_there_when_asked_for():
    encounters = generate(200, 4)
    made = table(encounters, include_last=True)
    assert (
        made["labels"].null_count
        == made["oracle_latent"].null_count
        == (~encounters.has_next & ~encounters.died).sum()
        > 0
    )


def test_every_subject_is_in_one_split_of_about_the_given_share():
    splits = {}
    for row in table(generate(1500, 8)).select(["subject_id", "split"]).to_pylist():
        splits.setdefault(row["subject_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    shares = parameters().raw["subjects"]
    for name, share in shares.items():
        assert within(sum(found == {name} for found in splits.values()), len(splits), share)


def test_a_tenth_of_the_codes_is_missed_and_half_a_percent_invented():
    encounters = cohort()
    there, absent = encounters.true, ~encounters.true
    assert within((encounters.recorded & there).sum(), there.sum(), 0.9)
    assert within((encounters.recorded & absent).sum(), absent.sum(), 0.005)


@pytest.mark.parametrize("label", range(NUM_LABELS))
def test_the_stored_probability_is_that_of_the_recorded_label(label):
    encounters = cohort()
    at = np.flatnonzero(encounters.has_next)
    p, y = encounters.probability[at, label].astype(float), encounters.recorded[at + 1, label]
    for low, high in ((0, 1), (0, 0.1), (0.1, 0.4), (0.4, 1)):
        some = (p >= low) & (p <= high)
        assert abs((y[some] - p[some]).sum()) <= 4.5 * np.sqrt((p[some] * (1 - p[some])).sum()) + 1


def test_severe_patients_get_more_drugs_and_procedures_come_back_and_die_more():
    encounters = cohort()
    severe, mild = encounters.severity > 1, encounters.severity < -1
    for there in (encounters.has_next[encounters.order < 9], encounters.died, encounters.done.mean(1)):
        few = encounters.order < 9 if len(there) < len(severe) else slice(None)
        assert there[severe[few]].mean() > there[mild[few]].mean()
    for label in range(NUM_LABELS):
        has = encounters.true[:, label]
        for drug in (2 * label, 2 * label + 1):
            assert encounters.given[has & severe, drug].mean() > encounters.given[has & mild, drug].mean() + 0.2


def test_effective_drugs_lower_the_label_in_the_next_visit_and_inert_ones_do_not():
    encounters = cohort()
    effects = {"effective": [], "inert": []}
    for label in range(NUM_LABELS):
        has = encounters.true[:, label]
        band = has & (np.abs(encounters.severity) < 0.5)  # both drugs follow severity: compare like with like
        for name, drug in (("effective", 2 * label), ("inert", 2 * label + 1)):
            given = encounters.given[:, drug]
            p = encounters.probability[:, label]
            effects[name].append(p[band & given].mean() - p[band & ~given].mean())
    assert max(effects["effective"]) < -0.02
    assert abs(np.mean(effects["inert"])) < 0.02


def test_the_ceiling_on_codes_lies_between_persistence_and_the_hidden_truth():
    encounters = generate(1500, 21)
    at = np.flatnonzero(encounters.has_next)
    observed = oracle_observed(encounters, 4000, 22)
    y, now = encounters.recorded[at + 1, :NUM_LABELS], encounters.recorded[at, :NUM_LABELS]
    latent, codes, persistence = (
        np.mean([auroc(y[:, k], p[:, k].astype(float)) for k in range(NUM_LABELS)])
        for p in (encounters.probability[at], observed[at], now)
    )
    assert persistence + 0.05 < codes < latent
    assert features(encounters).shape == (
        len(encounters.patient),
        60 + len(parameters().drugs) + len(parameters().procedures) + 1,
    )
    with pytest.raises(ValueError, match="other patients"):
        oracle_observed(encounters, 10, 21)


def test_a_written_cohort_is_reused_and_another_one_refused(tmp_path):
    artifact = write_cohort(str(tmp_path / "c"), 80, 1, ceiling_patients=50)
    artifact.verify()
    written = (tmp_path / "c" / COHORT_FILE).stat().st_mtime_ns
    write_cohort(str(tmp_path / "c"), 80, 1, ceiling_patients=50)
    assert (tmp_path / "c" / COHORT_FILE).stat().st_mtime_ns == written
    ceilings, visits = (pq.read_table(tmp_path / "c" / name) for name in (CEILINGS_FILE, COHORT_FILE))
    held_out = [row["visit_id"] for row in visits.to_pylist() if row["split"] == "held_out"]
    assert ceilings["visit_id"].to_pylist() == held_out
    with pytest.raises(ArtifactError, match="seed"):
        write_cohort(str(tmp_path / "c"), 80, 2, ceiling_patients=50)
