"""docs/scaling.md shows the table that its model prints."""

from benchmarks.cluster.scaling_model import table
from benchmarks.report import ROOT
from ckd.estimate import Assumptions


def test_the_scaling_page_shows_the_table_that_its_model_prints():
    page = (ROOT / "docs/scaling.md").read_text()
    assert table(Assumptions()) in page, "copy what python -m benchmarks.cluster.scaling_model prints"
