"""The card beside a cohort may be anybody's: a report is refused in one line where it lacks what is shown."""

import json

import pytest

from ckd.errors import ArtifactError
from ckd.evaluation.report.cohortcard import read_card
from tests.evaluation.test_report import CARD


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda card: card.pop("admissions"), "no 'admissions'"),
        (lambda card: card.pop("returners"), "no 'returners'"),
        (lambda card: card.update(claim=None), "a claim, licence or kind that is no text"),
        (lambda card: card.update(source="mimic3"), "another kind of value where there should be an object"),
        (lambda card: card["admissions"].update(excluded=["x"]), "another kind of value"),
        (lambda card: card["admissions"].update(pairs="5"), "a count that is no whole number"),
        (lambda card: card["returners"]["return"].update(women="half"), "a mean or share that is no number"),
        (lambda card: card.update(unmapped_codes=None), "another kind of value"),
    ],
)
def test_a_card_of_something_else_is_refused_in_one_line(tmp_path, change, said):
    card = json.loads(json.dumps(CARD))
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert read_card(str(tmp_path)) == card and read_card(str(tmp_path / "none")) is None
    change(card)
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match=f"card.json: not a card as 'ckd ingest' writes it .{said}.*move that file"):
        read_card(str(tmp_path))
