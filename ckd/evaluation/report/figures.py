"""Draws all figures of the report. A new one is a row of FIGURES where it is drawn, and its place in the template."""

from ckd.evaluation.report import dots, panels, training
from ckd.evaluation.report.content import Content
from ckd.evaluation.report.drawing import Drawing
from ckd.evaluation.report.svg import style


def draw_all(run: Content) -> dict[str, Drawing]:
    """Every figure by name. Where the sample is too small for a claim about performance, most are only that reason."""
    with style() as canvas:
        return {one.name: one.of(run, canvas) for one in (*dots.FIGURES, *panels.FIGURES, *training.FIGURES)}
