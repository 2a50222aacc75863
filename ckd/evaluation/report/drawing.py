"""A figure of the report, or the reason why it is not there, and the sentence that says how to read it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ckd.evaluation.baselines import BASELINES
from ckd.evaluation.report.svg import inline

MODEL_NAMES = {
    "student": "Student",
    "teacher": "Teacher",
    **{name: baseline.title for name, baseline in BASELINES.items()},
    "oracle_latent": "Ceiling: true probability",
    "oracle_observed": "Ceiling: given the codes",
}
Draw = Callable[[Any], Any]  # class Figure -> figure


@dataclass(frozen=True)
class Drawing:
    """One figure of the page; `svg` or `reason`."""

    name: str
    title: str
    reading: str
    svg: Markup | None = None
    reason: str | None = None


def model_name(name: str) -> str:
    """What a reader calls a model."""
    return MODEL_NAMES.get(name, name)


def drawing(figure: Any, name: str, title: str, reading: str, reason: str | None, draw: Draw) -> Drawing:
    """Draw with the class `figure` (see svg.style), unless there is a reason not to."""
    if reason:
        return Drawing(name, title, reading, reason=reason)
    return Drawing(name, title, reading, svg=inline(draw(figure), name, title))
