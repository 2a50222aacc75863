"""Patients as they are now, for a finished student: each one's last stay, written with the words of its cohort.

No next visit is needed, nothing is learned, and a stay may still go on.
"""

from collections.abc import Mapping
from typing import Any

from ckd.ehr.card import counted_lines
from ckd.ehr.ingest import Clauses, Work
from ckd.ehr.subject_splits import SubjectSplits
from ckd.ehr.wording import Wording
from ckd.errors import ConfigError, DataError
from ckd.ingest_config import IngestConfig
from ckd.store.artifacts import Fields
from ckd.store.files import digest

LIKE = "like"  # fingerprint field: the words that the texts are written with
ALL_HELD_OUT: Mapping[str, Any] = {"split_column": "", "tuning_values": (), "held_out_values": (), "subgroups": ()}


def settings_of_now(config: IngestConfig, wording: Wording, cohort: str) -> IngestConfig:
    """The settings without what divides a cohort, since nobody is learned from, and with its ingest.history.

    Raises ConfigError when another one is asked for.
    """
    asked = config.history if "history" in config.model_fields_set else wording.history
    if asked != wording.history:
        what = f"ingest.history={asked}: the texts of --like {cohort} were written with {wording.history}"
        raise ConfigError(f"{what}; leave the key out, so that it is taken from there")
    return config.model_copy(update={**ALL_HELD_OUT, "history": asked})


def fields_of_now(fields: Fields, wording: Wording) -> Fields:
    """The fingerprint of an ingest and of the words."""
    own = [sorted(wording.code_map.items())] if wording.code_map else []
    return {**fields, LIKE: digest([wording.clause, wording.titles.rows(), *own])}


def splits_and_clauses(work: Work, wording: Wording) -> tuple[SubjectSplits, Clauses]:
    """Everybody in held_out, whose clauses are the cohort's."""
    return SubjectSplits(work.config, {"held_out": 1.0}), {"all": wording.clause}


def require_patients(facts: Mapping[str, Any], folder: str) -> None:
    """Raise DataError when no patient has a stay that can be scored."""
    if not facts["admissions"]["last"]:
        raise DataError(
            f"{folder}: no patient's last stay can be used; expected stays with an admission time, ids and diagnosis "
            "codes (the reasons stand above)"
        )


def card_of_now(source: Mapping[str, Any], work: Work, known: Mapping[str, Any], found: Mapping[str, Any]) -> Any:
    """What was read, what became of every admission, and how many patients there are to score."""
    stated = {"data_license": source["data_license"], "credentialed": source["credentialed"]}
    to_score = found["admissions"]["last"]
    return {"source": dict(source), **stated, "settings": dict(work.fields), **known, "to_score": to_score}


def lines_of_now(card: Mapping[str, Any]) -> list[str]:
    """What a person must read, without any patient's text."""
    notes = card["source"].get("notes", ())
    return [
        *counted_lines(card),
        *notes,
        f"{card['to_score']:,} patients to score: the last stay of each that can be used",
    ]
