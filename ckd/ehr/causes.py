"""Why tables give no cohort, in one line: the cause that costs most, where it is first, and what to do about it."""

from collections.abc import Mapping
from typing import Any

from ckd.ehr import pairs, usable
from ckd.ehr.cellcounts import UNREAD, written
from ckd.errors import DataError

Json = Mapping[str, Any]
_TIMES = {pairs.BAD_START: "start", pairs.BAD_END: "end"}
_CONSEQUENCES = (pairs.NEXT_UNUSABLE, pairs.PART_UNPLACED, pairs.UNPLACED, pairs.MERGED)  # of other admissions
_REMEDIES = {
    pairs.NO_SUBJECT: "give each admission its patient",
    pairs.NEWBORN: "ingest.newborns=true keeps them",
    pairs.NO_START: "give each admission its time",
    pairs.NO_END: "give each admission its discharge time",
    pairs.END_FIRST: "mend the times",
    pairs.NEXT_TOO_SOON: "ingest.coding_delay_days decides",
    usable.NO_VISIT: "give each row the id of its admission",
    usable.UNKNOWN_VISIT: "expected visit and subject ids as the admissions have them",
    usable.NO_CODE: "expected an ICD code in each row",
    usable.UNKNOWN_VERSION: "expected 9 or 10",
    usable.NO_DRUG: "expected a drug in each row",
}
_NOT_CODED = (pairs.NOT_CODED, pairs.NEXT_NOT_CODED)


def require_rows_that_meet(known: Json, files: Mapping[str, str], patients: Json) -> None:
    """Raise DataError for a table that has rows, of which none belongs to an admission.
    `known`: the card's counts; `files`: table -> its files; `patients`: rows read and met."""
    for table, rows in known["rows"].items():
        if rows["read"] and not rows["used"]:
            reasons = {why: e for why, e in rows["rejected"].items() if why in (usable.NO_VISIT, usable.UNKNOWN_VISIT)}
            if sum(e["rows"] for e in reasons.values()) == rows["read"]:
                raise DataError(f"{files[table]}: none of {rows['read']:,} rows meets an admission: {_most(reasons)}")
    if patients["read"] and not patients["met"]:
        what = f"none of {patients['read']:,} patients has an admission"
        raise DataError(f"{files['patients']}: {what}; expected subject ids as the admissions have them")


def no_labels(known: Json, task: str) -> DataError:
    """The error for visits of which no label is known."""
    given = known["rows"].get("given", {"rejected": {}})["rejected"]
    why = f"of the given labels {_most(given)}" if given else "no window ends before the end of follow-up"
    return DataError(f"no visit has a known label of task '{task}': {why}; docs/labels.md says when one is known")


def no_pairs(known: Json, files: Mapping[str, str], codes: str, remedies: Mapping[str, str]) -> DataError:
    """The error for admissions of which none has a usable next one. `known`, `files` as above; `codes`: what rows of
    diagnoses look like; `remedies`: the source's own, by reason."""
    excluded, found = known["admissions"]["excluded"], f"no next-visit pair in {known['admissions']['in']:,} admissions"
    if not known["patients"]["consecutive_pairs"] or not excluded:
        what = f"none of {known['patients']['all']:,} patients has two admissions"
        return DataError(f"{found}: {what}; expected patients who return (is the subject id that of the patient?)")
    causes = {why: e for why, e in excluded.items() if why not in _CONSEQUENCES} or excluded
    reason, e = max(causes.items(), key=lambda item: item[1]["rows"])
    if reason in _NOT_CODED:
        rows = known["rows"]["diagnoses"]
        if not rows["read"]:
            return DataError(f"{found}: {files['diagnoses']} holds no rows of diagnoses; {codes}")
        if rows["rejected"]:
            most = _most(rows["rejected"], remedies)
            return DataError(f"{found}: of {rows['read']:,} rows of {files['diagnoses']} {most}")
    cells = [c for c in known["cells"] if c["kind"] == UNREAD and c["name"] == _TIMES.get(reason)]
    usual = {**_REMEDIES, **remedies}.get(reason, "")
    how = f"column '{cells[0]['column']}' is {written(cells[0])}" if cells else usual
    how = how or f"see docs/ingest.md: {pairs.REASONS[reason][:1].lower()}{pairs.REASONS[reason][1:-1]}"
    return DataError(f"{found}: {e['rows']:,} excluded, {reason} (first: {e['first']}); {how}")


def _most(reasons: Json, remedies: Mapping[str, str] | None = None) -> str:
    reason, e = max(reasons.items(), key=lambda item: item[1]["rows"])
    remedy = {**_REMEDIES, **(remedies or {})}.get(reason, "mend them")
    return f"{e['rows']:,} have {reason} (first: {e['first']}); {remedy}"
