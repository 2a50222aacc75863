"""The card beside a cohort, as far as a report shows it. The file may be anybody's: what it lacks is told."""

from collections.abc import Mapping
from typing import Any

from ckd.errors import ArtifactError
from ckd.store.files import join
from ckd.visits.datafolder import CARD_FILE, card_of

SIDES = ("return", "do_not_return")
RETURNERS: Mapping[str, str] = {  # mean over the visits of a side -> what a reader calls it
    "mean_age": "mean age (years)",
    "women": "women (%)",
    "diagnoses_per_visit": "diagnoses per visit",
    "medications_per_visit": "drugs per visit",
    "procedures_per_visit": "procedures per visit",
}


def read_card(folder: str) -> dict[str, Any] | None:
    """The cohort's card; None where there is none. Raises ArtifactError for one without what a report shows."""
    card = card_of(folder)
    if not card:
        return None
    try:
        fault = _fault(card)
    except KeyError as error:
        fault = f"no {error}"
    except (TypeError, AttributeError):
        fault = "another kind of value where there should be an object"
    if fault:
        what = f"not a card as 'ckd ingest' writes it ({fault})"
        raise ArtifactError(f"{join(folder, CARD_FILE)}: {what}; run 'ckd ingest' again, or move that file away")
    return card


def _fault(card: Mapping[str, Any]) -> str:
    """What is wrong with a value. Raises KeyError, TypeError or AttributeError for what is not there."""
    found, sides = card["admissions"], [card["returners"][side] for side in SIDES]
    counts = [found[name] for name in ("in", "pairs", "last_visits")] + [side["visits"] for side in sides]
    counts += [each["rows"] for each in found["excluded"].values()]
    figures = [side.get(name) for side in sides for name in RETURNERS]
    figures.append(card.get("unmapped_codes", {}).get("diagnosis", {}).get("share"))
    words = [card["claim"], card["data_license"], card["source"]["kind"]]
    if not all(type(count) is int for count in counts):
        return "a count that is no whole number"
    if not all(figure is None or type(figure) in (int, float) for figure in figures):
        return "a mean or share that is no number"
    return "" if all(isinstance(word, str) for word in words) else "a claim, licence or kind that is no text"
