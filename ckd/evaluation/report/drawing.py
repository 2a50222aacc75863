"""A figure of the report: how it is drawn, how to read it, and the reason where it is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ckd.evaluation.baselines import BASELINES
from ckd.evaluation.report.content import Content
from ckd.evaluation.report.svg import inline

MODEL_NAMES = {
    "student": "Student",
    "teacher": "Teacher",
    **{name: baseline.title for name, baseline in BASELINES.items()},
    "oracle_latent": "Ceiling: true probability",
    "oracle_observed": "Ceiling: given the codes",
}


@dataclass(frozen=True)
class Drawing:
    """One figure of a page; `svg` or `reason`."""

    name: str
    title: str
    reading: str
    svg: Markup | None
    reason: str | None


@dataclass(frozen=True)
class Figure:
    """One kind of figure. The page shows it by its name."""

    name: str
    title: str
    reading: str  # how to read it
    draw: Callable[[Content, Any], Any]  # run, matplotlib's class Figure (see svg.style) -> figure
    missing: Callable[[Content], str | None] = lambda run: None  # why a run does not have it
    of_labels: bool = False  # it shows at most MOST_SHOWN of the labels
    performance: bool = True  # left out where the sample is too small for a claim about performance

    def of(self, run: Content, canvas: Any) -> Drawing:
        """Draw it with the class `canvas`, unless there is a reason not to."""
        small = run.headline.too_small if self.performance else None
        reason = f"This figure is left out: {small}." if small else self.missing(run)
        svg = None if reason else inline(self.draw(run, canvas), self.name, run.words.said(self.title))
        more = f" Drawn: the {len(run.shown)} of {len(run.chosen)} labels with most positive visits." * (
            self.of_labels and len(run.shown) < len(run.chosen)
        )
        say = run.words.said
        return Drawing(self.name, say(self.title), say(self.reading) + more, svg, reason and say(reason))


def model_name(run: Content, name: str) -> str:
    """What a reader calls a model."""
    return run.words.said(MODEL_NAMES.get(name, name))


def short(name: str, most: int = 46) -> str:
    """A name in the room that a figure has for it."""
    return name if len(name) <= most else name[: most - 1] + "…"


def without_labels(run: Content) -> str | None:
    """Why there is no figure per label, if so."""
    return None if run.chosen else "no label has enough positive and negative held-out visits"
