"""Renders the report's page: one HTML file that loads nothing.

Autoescape is on; only the page's own figures, style and script are markup.
"""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckd import __version__
from ckd.evaluation.report import facts, tables
from ckd.evaluation.report.content import Content
from ckd.evaluation.report.drawing import model_name
from ckd.evaluation.report.figures import draw_all
from ckd.evaluation.wording import NOT_INTENDED, known_on

FOLDER = Path(__file__).parent
SECTIONS = (
    ("use", "Intended use and limits"),
    ("cohort", "Who is in it"),
    ("models", "All models"),
    ("labels", "Per disease"),
    ("onset", "New onset"),
    ("curves", "ROC and PR"),
    ("calibration", "Calibration"),
    ("decisions", "Decisions and alerts"),
    ("distillation", "Teacher and student"),
    ("baselines", "Baselines"),
    ("subgroups-section", "Subgroups"),
    ("training-section", "Training"),
    ("speed-section", "Speed and cost"),
    ("provenance", "Configuration"),
)


def render(run: Content) -> str:
    """The page of a run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    texts = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    css, script = (Markup(f"\n{text}") for text in texts)  # nosec B704
    return environment.get_template("report.html.jinja").render(
        run=run,
        sentence=_sentence(run),
        version=__version__,
        words=run.words,
        not_intended=NOT_INTENDED,
        known_on=known_on(run.metrics),
        warnings=[facts.without_small_counts(line) for line in run.metrics["warnings"]],
        sections=[(anchor, run.words.said(title)) for anchor, title in SECTIONS],
        css=css,
        script=script,
        script_hash=script_hash(str(script)),
        number=lambda value: tables.figure(value).text,
        figures=draw_all(run),
        **_tables(run),
    )


def script_hash(script: str) -> str:
    """The Content-Security-Policy's source of the one script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _tables(run: Content) -> dict[str, Any]:
    fields = run.metrics["subgroups"]["fields"]
    return {
        "splits": facts.splits(run),
        "visits": facts.visits(run),
        "card": run.card,
        "admissions": facts.admissions(run, run.card) if run.card else None,
        "returners": facts.returners(run.card) if run.card else None,
        "models": tables.models(run),
        "labels": tables.labels(run),
        "alerts": tables.alerts(run),
        "calibration": tables.calibration(run),
        "comparisons": tables.comparisons(run),
        "baseline_notes": facts.baseline_notes(run),
        "strongest": _strongest(run),
        "distillation": list(_distillation(run)),
        "subgroups": tables.subgroups(run),
        "by_label": tables.subgroups_by_label(run),
        "without_groups": [
            f"{tables.field_title(name)}: {field['reason']}." for name, field in fields.items() if field["reason"]
        ],
        "speed": facts.speed(run),
        "cost": facts.cost(run),
        "fingerprints": list(facts.fingerprints(run)),
        "intervals": _intervals(run),
    }


def _sentence(run: Content) -> str:
    """The headline, with the baseline's name for a reader."""
    name = run.metrics["headline"]["strongest_baseline"]
    return run.headline.sentence.replace(name, f"“{model_name(run, name)}”")


def _strongest(run: Content) -> str:
    headline = run.metrics["headline"]
    name = model_name(run, headline["strongest_baseline"])
    return f"The strongest baseline was chosen without held-out visits: {name} ({headline['chosen_by']})."


def _distillation(run: Content) -> Iterator[str]:
    """Sentences on what distilling kept; none of a small sample."""
    if run.headline.too_small:
        return
    optimism = run.metrics["adapter_optimism"]
    if optimism is not None:
        yield (
            f"The adapter's optimism is {optimism:+.4f}: tuning minus out-of-fold training log-loss of the teacher. "
            "Above 0, the adapter remembers something of the labels it was tuned on."
        )
    for name, ceiling in run.metrics["ceilings"].items():
        if ceiling["share_of_gain"] is not None:
            gain = f"{ceiling['share_of_gain']:.0%} of the AUROC gain over a coin"
            yield f"The student reaches {gain} that “{model_name(run, name)}” has."


def _intervals(run: Content) -> str:
    found = run.metrics["intervals"]
    if found["reason"]:
        return f"none are given ({facts.without_small_counts(found['reason'])})"
    return f"{found['method']}, {found['resamples']:,} draws, level {found['level']:.0%}"
