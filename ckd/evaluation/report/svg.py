"""Turns a matplotlib figure into SVG for the page: the page's colours, text as text, equal bytes for equal figures."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup, escape

# The page replaces these colours by its variables of the same names, so one figure serves light, dark and print.
INK, MUTED, GRID, STUDENT, TEACHER, OTHER, ACCENT = (f"#10010{k}" for k in range(7))
_VARIABLES = dict(
    zip(
        (INK, MUTED, GRID, STUDENT, TEACHER, OTHER, ACCENT),
        ("ink", "muted", "grid", "student", "teacher", "other", "accent"),
        strict=True,
    )
)
_COLOUR = re.compile("|".join(_VARIABLES))
_FAMILY = re.compile(r"font-family: [^;\"]*")
_ID = re.compile(r'(\bid="|url\(#|href="#)')
# A <style> here would be the whole page's.
_LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)


@contextmanager
def style() -> Iterator[Any]:
    """The report's style: yields matplotlib's class Figure, which keeps no state outside of itself."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ckd",
        "font.size": 8.0,
        "axes.titlesize": 8.0,
        "axes.labelsize": 8.0,
        "xtick.labelsize": 7.0,
        "ytick.labelsize": 7.0,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.edgecolor": GRID,
        "grid.color": GRID,
        "grid.linewidth": 0.5,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.size": 0.0,
        "ytick.major.size": 0.0,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
        "path.simplify": True,
        "text.parse_math": False,  # a label's name may have two dollar signs and is no formula
    }
    with mpl.rc_context(settings):
        yield Figure


def inline(figure: Any, name: str, title: str) -> Markup:
    """The figure as an <svg> element; call it within `style()`.

    `name` makes its ids different from other figures', `title` is what a screen reader says.
    """
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True
    )
    body = stream.getvalue()
    body = body[body.index("<svg") :]
    head, _, rest = body.partition(">")
    view = re.search(r'viewBox="([^"]+)"', head)
    rest = _ID.sub(lambda found: f"{found[1]}{name}-", _LEFT_OUT.sub("", rest)).replace("xlink:href", "href")
    rest = _FAMILY.sub("font-family: var(--font)", rest)
    rest = _COLOUR.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", rest)
    width, height = (view[1] if view else "0 0 1 1").split()[2:]
    # This markup is safe: names and titles are escaped here, and matplotlib escapes the text that it draws.
    return Markup(  # nosec B704
        f'<svg id="{escape(name)}" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}">{rest}'
    )
