"""The report of one label without a present, and of 283: panels of the frequent ones, tables of all, headings."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from ckd.config import EvaluationConfig
from ckd.evaluation import baselines
from ckd.evaluation.baselines import BASELINES
from ckd.evaluation.calibrate import calibrate_student
from ckd.evaluation.evaluate import evaluate
from ckd.evaluation.modelcard import Facts, model_card
from ckd.evaluation.report import tables
from ckd.evaluation.report.content import MOST_SHOWN, gather
from ckd.evaluation.report.drawing import short
from ckd.evaluation.report.figures import draw_all
from ckd.evaluation.report.page import render
from ckd.evaluation.report.svg import inline, style
from ckd.evaluation.wording import meanings
from ckd.store.artifacts import FolderArtifact
from ckd.visits.task import Task
from jobs.stages import STEPS
from tests.evaluation.browser import CHROMIUM, visit
from tests.evaluation.evaluation_cohort import hidden, make_visits, noisy, task_of, write_cohort, write_stage

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
WANTED = EvaluationConfig(resamples=100)
LONG = "Residual codes; unclassified; all external causes of injury and all other conditions that nobody counts"
MANY = Task.model_validate(
    {
        "name": "ccs-all",
        "labels": [
            {
                "name": LONG if j == 0 else f"Category {j}",
                "ccs": [j + 1],
                "group": ["Kidney", "Heart", ""][j % 3],
            }
            for j in range(283)
        ],
    }
)


def made(folder, task, *, often, unknown=0.0):
    """A run's folder, and its figures: 240 held_out visits of 120 patients; a share of the cells is unknown."""
    visits = make_visits((60, 60, 240), task=task, often=often)
    rng, coded = np.random.default_rng(3), [bool(label.ccs) for label in task.labels]
    seen = [
        replace(
            v,
            labels=hidden(v.labels, rng.random(len(task)) < unknown),
            current_labels=hidden(v.current_labels, ~np.array(coded)),
        )
        for v in visits
    ]
    cohort = write_cohort(folder / "artifacts", seen, task=task)
    for name, seed in (("predictions", 1), ("soft_labels", 2)):
        write_stage(cohort, name, noisy(visits, seed))
    metrics = evaluate(cohort, seed=0, wanted=WANTED, say=lambda _: None)
    student = FolderArtifact(str(folder / "student"), {"seed": 1})
    student.commit([])
    calibration = str(folder / "student" / "calibration.json")
    calibrate_student(cohort, WANTED, 0).save(calibration, task.names, student.identity())
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def opened(folder, **more):
    names = {"name": "made", "cohort_folder": "", "config": "seed: 1\n"}
    return gather(str(folder), str(folder / "artifacts"), steps=STEPS, **names, **more)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """With two baselines of six: 283 labels cost a second per model and view."""
    few = {name: BASELINES[name] for name in ("prevalence", "persistence")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "BASELINES", few)
        return opened(made(tmp_path_factory.mktemp("many"), MANY, often=0.15, unknown=0.1))


@pytest.fixture(scope="module")
def html(many, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(many))
    return path.read_text()


def test_panels_are_those_of_the_most_frequent_labels_and_the_tables_have_all(many, html):
    counted = {row["disease"]: row["positives"] for row in many.metrics["labels_in_macro"]}
    assert len(counted) > MOST_SHOWN == len(many.shown)
    shown = [counted[MANY.names[j]] for j in many.shown]
    assert sorted(shown) == sorted(counted.values())[-MOST_SHOWN:]
    svg = re.search(r'<svg id="roc".*?</svg>', html, re.DOTALL)[0]
    assert len(set(re.findall(r'id="roc-axes_\d+"', svg))) == MOST_SHOWN
    assert f"Drawn: the 25 of {len(counted)} labels with most positive visits." in html
    assert len(tables.labels(many).rows) == 283 and len(tables.alerts(many).rows) == len(counted)
    assert re.search(r"https?://", html) is None and len(html) < 4_000_000


@needs_chromium
def test_a_column_sorts_inside_each_heading(html, tmp_path):
    (tmp_path / "report.html").write_text(html)

    async def use(page):
        await page.run("document.querySelectorAll('#labels-table th button')[3].click()")
        of_body = "[...body.rows].map(row => row.className || Number(row.children[3].dataset.sort))"
        bodies = await page.run(f"[...document.querySelector('#labels-table').tBodies].map(body => {of_body})")
        wide = await page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return bodies, wide, page.messages, page.requests

    bodies, wide, messages, requests = visit(tmp_path / "report.html", tmp_path, use)
    assert messages == [] and requests == [(tmp_path / "report.html").as_uri()] and wide == 0
    assert [body[0] for body in bodies[:2]] == ["heading", "heading"]
    for figures in (bodies[0][1:], bodies[1][1:], bodies[2]):
        assert len(figures) > 90 and figures == sorted(figures, reverse=True)


def test_labels_stand_under_their_headings(many, html):
    parts = tables.labels(many).parts
    assert [heading for heading, _ in parts] == ["Kidney", "Heart", ""]
    assert [row[0].text for row in parts[1][1]] == [f"Category {j}" for j in range(1, 283, 3)]
    body = re.search(r'<table id="labels-table">.*?</table>', html, re.DOTALL)[0]
    assert body.count("<tbody>") == 3
    assert re.findall(r'rowgroup" colspan="\d+">(\w+)<', body) == ["Kidney", "Heart"]
    fresh = Task.model_validate({**MANY.stored, "labels": [{**one, "group": ""} for one in MANY.stored["labels"]]})
    assert len(tables.labels(replace(many, held_out=replace(many.held_out, task=fresh))).parts) == 1


def test_names_of_any_length_have_room(many, html):
    svg = re.search(r'<svg id="labels".*?</svg>', html, re.DOTALL)[0]
    names = re.findall(r">([^<]*)</text>", svg)
    assert all(len(name) <= 46 for name in names) and len(short(LONG)) == 46
    for title in re.findall(r'<g id="roc-text_\d+">(.*?)</g>', html, re.DOTALL):
        assert title.count("<tspan") <= 2


def test_a_name_with_dollar_signs_is_no_formula():
    with style() as figures:
        figure = figures()
        figure.suptitle(r"costs from $5 to $\frac")
        assert r"costs from $5 to $\frac" in inline(figure, "costs", "costs")


def test_figures_are_those_of_the_known_cells(many):
    label = many.shown[0]
    known = many.held_out.known[:, label]
    ranked = many.ranked[label]["student"]
    assert (ranked.visits, ranked.events) == (known.sum(), many.held_out.labels[known, label].sum())
    assert known.sum() < len(known)
    row = next(row for row in tables.labels(many).rows if row[0].text == MANY.names[label])
    assert row[1].text == str(known.sum()) and row[2].text.startswith(str(ranked.events))


def test_the_words_are_those_of_the_task(many, html):
    assert "Which of the 283 labels of ccs-all will be true at the next visit?" in html
    words = re.sub(r"<svg.*?</svg>|<style.*?</style>|<script.*?</script>", "", html, flags=re.DOTALL)
    assert set(re.findall(r"\b[Dd]isease\w*", words)) == {"disease"}, "only what a code is not"
    assert "each label known on 2" in html and "<th" in html
    card = model_card(many.metrics, Facts("s", "", 512, True, "", False, {}, ""))
    assert "# Outcomes after a visit: ccs-all" in card and "283 names with probabilities" in card
    assert "25 groups" not in card and "each label known on 2" in card


def test_one_label_without_a_present_is_reported_without_its_figures(tmp_path):
    task = task_of(1, L0={"readmission_days": 30})
    run = opened(made(tmp_path, task, often=0.5))
    text = render(run)
    assert "Will the label of made be true after this visit?" in text
    assert "where the label is known" in text and "given that the patient returns" not in text
    assert "rank who has it later" in text and "at the next visit" not in text
    drawn = draw_all(run)
    missing = {name for name, one in drawn.items() if one.svg is None}
    assert missing == {"onset", "training"}, {name: drawn[name].reason for name in missing}
    assert drawn["onset"].reason.startswith("the current visit's labels are unknown")
    assert not any("New onset" in column or "new onset" in column for column in tables.models(run).columns)
    assert "macro AUROC, new onset" not in text and "isease" not in re.sub("<s(tyle|cript).*?</s", "", text)
    assert "Not computed: current labels unknown for 60 of 60 tuning visits." in text
    assert len(tables.labels(run).rows) == 1 and tables.labels(run).columns[0] == "Label"


def test_a_union_means_what_its_parts_do():
    task = task_of(3, L0={"death_days": 30}, L1={"readmission_days": 30}, L2={"any_of": ["L0", "L1"]})
    assert meanings(task) == ["death within a time", "readmission within a time"]


def test_headings_may_change_after_the_visits_were_stored(many):
    task = Task.model_validate({**MANY.stored, "labels": [{**one, "group": "All"} for one in MANY.stored["labels"]]})
    folder = many.held_out  # the stored ones keep theirs
    assert folder.task.labels[0].group == "Kidney"
    assert [h for h, _ in tables.labels(replace(many, held_out=replace(folder, task=task))).parts] == ["All"]
