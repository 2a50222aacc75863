"""The report: drawn from a small cohort, read as a file, and opened in headless Chromium."""

import copy
import json
import re
import shutil
from dataclasses import replace

import pytest

from ckd.config import EvaluationConfig
from ckd.errors import ArtifactError
from ckd.evaluation.calibrate import calibrate_student
from ckd.evaluation.claims import headline_facts
from ckd.evaluation.evaluate import evaluate
from ckd.evaluation.report import facts
from ckd.evaluation.report.content import gather
from ckd.evaluation.report.drawing import MODEL_NAMES
from ckd.evaluation.report.facts import without_small_counts
from ckd.evaluation.report.figures import draw_all
from ckd.evaluation.report.page import render
from ckd.evaluation.wording import wording
from ckd.store.artifacts import FolderArtifact
from ckd.visits.labels import DISEASES
from jobs.stages import STEPS
from tests.evaluation.browser import CHROMIUM, visit
from tests.evaluation.evaluation_cohort import MARKER, make_visits, noisy, write_all, write_cohort, write_stage

FIGURES = (
    *("models", "labels", "onset", "roc", "precision-recall", "reliability", "decision", "alerts"),
    *("teacher", "subgroups", "training"),
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
CARD = {
    "claim": "Every figure on this cohort reads: given that the patient returns.",
    "source": {"kind": "mimic3"},
    "data_license": "a <licence>",
    "admissions": {
        "in": 700,
        "pairs": 580,
        "last_visits": 95,
        "excluded": {"ended in death": {"rows": 22}, "no diagnosis codes": {"rows": 3}},
    },
    "returners": {
        side: {
            "visits": 95,
            "mean_age": 60.5,
            "women": 0.5,
            "diagnoses_per_visit": 9.0,
            "medications_per_visit": 12.0,
            "procedures_per_visit": 1.5,
        }
        for side in ("return", "do_not_return")
    },
}
EVENTS = [
    {"event": "embed", "visits": 580, "seconds": 10.0},
    *(
        {"event": "student_step", "step": k, "loss": 1 / k, "step_seconds": 0.1, "visits_per_s": 100.0}
        for k in range(1, 9)
    ),
    *(
        {"event": "student_epoch", "epoch": k, "metric": "macro_auroc", "tuning_score": 0.6 + k / 100, "best_epoch": 2}
        for k in (1, 2)
    ),
]


def make_run(folder, visits):
    """A run's folder with metrics.json, events, a head, and a cohort's card."""
    cohort = write_all(
        folder / "artifacts",
        visits,
        {"read": 590, "kept": 580, "quarantined_by_reason": {"no input": {"rows": 10}}, "echo_rate": 0.1},
    )
    metrics = evaluate(cohort, seed=0, wanted=EvaluationConfig(resamples=100), say=lambda line: None)
    student = FolderArtifact(str(folder / "student"), {"seed": 1})
    student.commit([])
    calibrate_student(cohort, EvaluationConfig(), 0).save(
        str(folder / "student" / "calibration.json"), DISEASES, student.identity()
    )
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS) + '{"event": "cut o')
    (folder / "card.json").write_text(json.dumps(CARD))
    FolderArtifact(str(folder / "artifacts" / "head"), {"seed": 1}).commit([], {"tuning_loss_by_epoch": [0.5, 0.4]})
    return visits


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's folder and its visits: 240 held_out visits of 120 patients.

    One patient's ethnicity is a marker; 15 labels are rare.
    """
    visits = []
    for row, one in enumerate(make_visits((200, 80, 240))):
        groups = {
            "age": ["30", "50", "70", "90"][row // 2 % 4],
            "sex": "FM"[row // 2 % 2],
            "ethnicity": MARKER if row == 500 else "WHITE",
            "our clinic": MARKER if row == 500 else "NS"[row // 2 % 2],
        }
        labels = tuple(flag and (j < 10 or row % 60 == 0) for j, flag in enumerate(one.labels))
        visits.append(replace(one, subgroups=groups, labels=labels))
    folder = tmp_path_factory.mktemp("report")
    return folder, make_run(folder, visits)


@pytest.fixture(scope="module")
def run(made):
    folder, _ = made
    return gather(
        str(folder), str(folder / "artifacts"), steps=STEPS, name="small", cohort_folder=str(folder), config="seed: 1\n"
    )


@pytest.fixture(scope="module")
def one_label(run):
    """The same with one label in the macro average: quick to draw."""
    return replace(run, metrics={**run.metrics, "labels_in_macro": run.metrics["labels_in_macro"][:1]})


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(run))
    return path


@pytest.fixture(scope="module")
def html(page):
    return page.read_text()


@pytest.fixture(scope="module")
def small(run):
    """The same figures, of 99 held_out patients."""
    counts = {**run.metrics["counts"], "held_out": {"visits": 240, "groups": 99}}
    metrics = {**run.metrics, "counts": counts}
    return replace(run, metrics=metrics, headline=headline_facts(metrics))


@needs_chromium
def test_chromium_shows_every_figure_sorts_and_loads_nothing(page, tmp_path):
    async def use(page):
        height = "f.querySelector('svg')?.getBoundingClientRect().height || 0"
        shown = f"[...document.querySelectorAll('figure')].map(f => [f.dataset.figure, {height}])"
        figures = dict(await page.run(shown))
        column = "[...document.querySelectorAll('#labels-table tbody tr')].map(r => r.children[2].dataset.sort)"
        name = "[...document.querySelectorAll('#labels-table tbody tr')].map(r => r.children[0].textContent)"
        click = "document.querySelectorAll('#labels-table th button')[{}].click()"
        orders = {"before": await page.run(name)}
        for moment, button, what in (("falling", 2, column), ("rising", 2, column), ("named", 0, name)):
            await page.run(click.format(button))
            orders[moment] = await page.run(what)
        sorted_by = await page.run(
            "[...document.querySelectorAll('#labels-table [aria-sort]')].map(h => h.textContent)"
        )
        wide = await page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return figures, orders, sorted_by, wide, page.messages, page.requests

    figures, orders, sorted_by, wide, messages, requests = visit(page, tmp_path, use)
    assert messages == []
    assert requests == [page.as_uri()]
    assert set(figures) == set(FIGURES) and all(height > 100 for height in figures.values())
    falling, rising = ([float(v) for v in orders[k] if v] for k in ("falling", "rising"))
    assert len(falling) == 10 and falling == sorted(falling, reverse=True) and rising == sorted(rising)
    assert orders["rising"][10:] == [""] * 15  # what has no figure stays below
    assert orders["named"] == sorted(DISEASES, key=str.lower) and sorted_by == ["Disease"] and wide == 0


def test_the_page_loads_nothing_and_says_so(html):
    assert re.search(r"https?://", html) is None
    assert not re.search(r"@import|<iframe|<img|\bsrc=|url\((?!#)", html)
    assert "default-src 'none'" in html and "sha256-" in html


def test_a_subgroup_of_one_s_own_has_a_table(html):
    assert 'id="subgroups-our-clinic"' in html and "Our clinic" in html


def test_the_page_tells_the_numbers_of_metrics_json(run, html):
    student = run.metrics["held_out"]["student"]
    assert f"<b>{student['macro']['auroc']:.3f}</b>" in html
    name = run.metrics["headline"]["strongest_baseline"]
    assert run.metrics["headline"]["sentence"].replace(name, f"“{MODEL_NAMES[name]}”") in html
    for j in run.chosen:
        low, high = student["per_label"][DISEASES[j]]["intervals"]["auroc"]
        assert f"({low:.3f} to {high:.3f})" in html
    for line in wording(run.metrics).limits:
        assert line.replace("'", "&#39;") in html


def test_no_text_no_id_and_no_rare_value_of_a_patient_is_in_the_page(run, html, small):
    assert MARKER not in html + render(small)
    assert not any(visit_id in html for visit_id in run.held_out.visit_ids.to_pylist())


def test_few_visits_are_told_neither_directly_nor_by_subtraction(html):
    assert re.search(r"no diagnosis codes</th>\s*<td>&lt;10<", html)
    assert re.search(r"ended in death</th>\s*<td>withheld<", html)
    shock = re.search(r">Shock</th>\s*<td[^>]*>([^<]*)<", html)
    assert shock[1].startswith("&lt;10")


def told(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def with_counts(run, unlabeled=95, **splits):
    counts = run.metrics["counts"] | {
        split: run.metrics["counts"][split] | {"visits": visits} for split, visits in splits.items()
    }
    return replace(run, metrics=run.metrics | {"counts": counts}, facts=run.facts | {"unlabeled": unlabeled})


def test_totals_are_withheld_that_would_tell_few_visits(run):
    usual = with_counts(run)
    assert told(facts.visits(usual))["kept"] == ["580"] and told(facts.admissions(usual, CARD))["admissions in"] == [
        "700"
    ]
    unread = CARD | {"unmapped_codes": {"diagnosis": {"share": 0.0123}}}
    assert told(facts.admissions(usual, unread))["share of their diagnosis codes without a CCS category"] == ["1.2%"]
    few = with_counts(run, unlabeled=3)
    assert {told(facts.visits(few))[name][0] for name in ("rows read", "kept")} == {"withheld"}
    assert told(facts.visits(few))["without a next visit"] == ["<10"]
    assert told(facts.admissions(few, CARD))["admissions in"] == ["withheld"]
    one_reason = CARD | {"admissions": CARD["admissions"] | {"excluded": {"no diagnosis codes": {"rows": 3}}}}
    assert told(facts.admissions(usual, one_reason))["admissions in"] == ["withheld"]
    bad_row = replace(run, facts=run.facts | {"quarantined_by_reason": {"no input": {"rows": 4}}})
    assert told(facts.visits(bad_row))["rows read"] == ["withheld"] and told(facts.visits(bad_row))["kept"] == ["580"]


def test_a_share_of_women_that_tells_few_of_them_is_not_told():
    of_28 = CARD["returners"]["return"] | {"visits": 28, "women": 4 / 28}
    table = told(facts.returners({"returners": {"return": of_28, "do_not_return": CARD["returners"]["return"]}}))
    assert table["women (%)"] == ["–", "50.0"] and table["mean age (years)"] == ["60.5", "60.5"]


def test_a_stage_s_visits_are_withheld_where_they_would_tell_those_of_a_small_split(run):
    assert told(facts.speed(with_counts(run)))["Teacher reads the visits"] == ["580", "10.0", "58.0"]
    assert told(facts.speed(with_counts(run, tuning=5)))["Teacher reads the visits"] == ["withheld", "10.0", "withheld"]


def test_words_of_the_data_are_escaped(html):
    assert "a &lt;licence&gt;" in html and "<licence>" not in html


def test_a_small_sample_claims_nothing(small):
    text = render(small)
    assert "This sample shows nothing about performance: fewer than 100 held-out patients." in text
    drawn = draw_all(small)
    assert set(drawn) == set(FIGURES)
    assert {name for name, one in drawn.items() if one.svg} == {"training"}
    assert all("fewer than 100 held-out patients" in one.reason for name, one in drawn.items() if name != "training")
    assert "models-table" not in text and "comparisons-table" not in text and "subgroups-sex" not in text
    assert small.metrics["headline"]["sentence"] not in text
    for row in (
        small.metrics["held_out"]["student"]["macro"],
        *small.metrics["held_out"]["student"]["per_label"].values(),
    ):
        assert row["auroc"] is None or f"{row['auroc']:.3f}" not in text


def test_epochs_among_which_nothing_chose_have_no_score_to_draw(run):
    unscored = [
        event | {"metric": "last_epoch", "tuning_score": 0.0} if event["event"] == "student_epoch" else event
        for event in run.events
    ]
    assert "not recorded" not in draw_all(run)["training"].svg
    assert "not recorded" in draw_all(replace(run, events=unscored))["training"].svg


def test_an_invented_cohort_is_called_one(run):
    metrics = {
        **run.metrics,
        "ceilings": {"oracle_latent": {"auroc": 0.8, "share_of_gain": 0.9}},
        "teacher_saw_held_out": True,
    }
    cautions = " ".join(headline_facts(metrics).cautions)
    assert "invented" in cautions and "may have been tuned on held-out visits" in cautions


def test_equal_runs_give_equal_bytes(one_label):
    assert render(one_label) == render(one_label)


def test_other_predictions_than_those_of_metrics_json_are_refused(made, tmp_path):
    folder, visits = made
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    write_stage(write_cohort(tmp_path / "artifacts", visits), "predictions", noisy(visits, 9))
    with pytest.raises(ArtifactError, match="is of other predictions than the stored ones"):
        gather(str(tmp_path), str(tmp_path / "artifacts"), steps=STEPS, name="x", cohort_folder="", config="")


def test_a_missing_or_older_metrics_json_names_the_next_step(tmp_path):
    with pytest.raises(ArtifactError, match="run 'ckd evaluate' first"):
        gather(str(tmp_path), str(tmp_path), steps=STEPS, name="x", cohort_folder="", config="")
    (tmp_path / "metrics.json").write_text('{"headline": {}, "held_out": {}}')
    with pytest.raises(ArtifactError, match="of an earlier version"):
        gather(str(tmp_path), str(tmp_path), steps=STEPS, name="x", cohort_folder="", config="")


def test_without_events_card_and_current_labels_the_reasons_stand_there(one_label):
    metrics = copy.deepcopy(one_label.metrics)
    for view in ("new_onset", "persistent"):
        metrics["held_out"]["student"][view] = {"macro": None, "micro": None, "per_label": None, "reason": "unknown"}
    bare = replace(one_label, events=[], card=None, extras={"head": {}, "student": {}, "visits": {}}, metrics=metrics)
    drawn = draw_all(bare)
    assert "current visit" in drawn["onset"].reason and "no training step" in drawn["training"].reason
    text = render(bare)
    assert "No cohort card lies beside the input" in text and "holds no finished stage" in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tuning has 8 visits and not both classes", "tuning has <10 visits and not both classes"),
        ("unknown for 1 of 4 tuning visits", "unknown for <10 of <10 tuning visits"),
        ("9 patients, fewer than 30", "<10 patients, fewer than 30"),
        ("fewer than 10 positive or negative held_out visits", "fewer than 10 positive or negative held_out visits"),
        ("current labels of 123 held_out visits", "current labels of 123 held_out visits"),
    ],
)
def test_warnings_lose_their_small_counts(line, told):
    assert without_small_counts(line) == told
