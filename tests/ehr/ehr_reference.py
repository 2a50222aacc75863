"""The next-visit rules in plain Python, one subject and one admission at a time: slow, written only from the rules."""

from collections import defaultdict
from datetime import timedelta

COLUMNS = ("stay_id", "role", "reason", "next_id", "start", "end", "prediction_time")
OUT_OF_ORDER = {"no subject_id", "newborn"}


def chain_by_hand(admissions, delay_days, newborns):
    """{visit_id: the COLUMNS of chain} for dicts with the columns that chain reads."""
    found = {}
    subjects = defaultdict(list)
    for admission in admissions:
        reason = own_reason(admission, newborns)
        if reason:
            found[admission["visit_id"]] = excluded(reason)
        if reason not in OUT_OF_ORDER:
            subjects[admission["subject_id"]].append((admission, reason))
    for kept in subjects.values():
        # An admission without a start is placed by its end; without both it is anywhere.
        placed = [(a["start"] or a["end"], a, reason) for a, reason in kept if a["start"] or a["end"]]
        placed.sort(key=lambda item: (item[0], item[1]["visit_id"]))
        anywhere = len(placed) < len(kept)
        found.update(one_subject([item[1:] for item in placed], timedelta(days=delay_days), anywhere))
    return found


def one_subject(kept, delay, anywhere):
    places = []  # lists of admissions (a stay), or None for an admission that only keeps its place
    for admission, reason in kept:
        mine = [p for p in places if p and not reason and any(touches(earlier, admission) for earlier in p)]
        if reason:
            places.append(None)
        elif mine:
            mine[0].append(admission)
        else:
            places.append([admission])
    ends = [a["end"].date() for a, reason in kept if reason and not a["start"]]
    torn = [bool(p) and any(first(p) <= end <= last(p).date() for end in ends) for p in places]
    found = {}
    for i, stay in enumerate(places):
        if stay:
            found.update(one_stay(stay, torn[i], places[i + 1 :], torn[i + 1 :], delay, anywhere))
    return found


def first(stay):
    return stay[0]["start"].date()


def last(stay):
    return max(a["end"] for a in stay)


def one_stay(stay, torn, later, later_torn, delay, anywhere):
    first = stay[0]
    facts = {"stay_id": first["visit_id"], "start": first["start"], "end": last(stay)}
    found = {a["visit_id"]: excluded("merged into an earlier stay", **facts) for a in stay[1:]}
    time = facts["end"] + delay
    if any(a["died"] for a in stay):
        found[first["visit_id"]] = excluded("ended in death", **facts)
    elif not any(a["coded"] for a in stay):
        found[first["visit_id"]] = excluded("no diagnosis codes", **facts)
    elif torn:
        found[first["visit_id"]] = excluded("part of the stay has no admission time", **facts)
    elif not later:
        found[first["visit_id"]] = {**facts, "role": "last", "reason": None, "next_id": None, "prediction_time": time}
    elif later[0] is None or later_torn[0]:
        found[first["visit_id"]] = excluded("next admission cannot be used", **facts)
    elif not any(a["coded"] for a in later[0]):
        found[first["visit_id"]] = excluded("next admission has no diagnosis codes", **facts)
    elif not time < later[0][0]["start"]:
        found[first["visit_id"]] = excluded("next admission before the codes are complete", **facts)
    elif anywhere:
        found[first["visit_id"]] = excluded("an admission without a time", **facts)
    else:
        found[first["visit_id"]] = {
            **facts,
            "role": "pair",
            "reason": None,
            "next_id": later[0][0]["visit_id"],
            "prediction_time": time,
        }
    return found


def own_reason(admission, newborns):
    start, end = admission["start"], admission["end"]
    if admission["subject_id"] is None:
        return "no subject_id"
    if admission["newborn"] and not newborns:
        return "newborn"
    if start is None:
        return "unparseable admission time" if admission["start_bad"] else "no admission time"
    if end is None:
        return "unparseable discharge time" if admission["end_bad"] else "no discharge time"
    return "discharge before admission" if end < start else None


def touches(earlier, later):
    return later["start"] <= earlier["end"] or later["start"].date() == earlier["end"].date()


def excluded(reason, stay_id=None, start=None, end=None):
    return {
        "stay_id": stay_id,
        "role": "excluded",
        "reason": reason,
        "next_id": None,
        "start": start,
        "end": end,
        "prediction_time": None,
    }


ABOUT_THE_NEXT = {
    None,
    "next admission cannot be used",
    "next admission has no diagnosis codes",
    "next admission before the codes are complete",
    "an admission without a time",
}


def earlier_stays(visit, judged, stays):
    """(stay, days from its end) of all that ended before a visit began and are excluded for the next one at most."""
    start, found = judged[visit]["start"], []
    for other, verdict in judged.items():
        same = stays[other]["subject_id"] == stays[visit]["subject_id"] and verdict["stay_id"] == other
        if same and verdict["reason"] in ABOUT_THE_NEXT and verdict["end"] < start:
            found.append((other, (start.date() - verdict["end"].date()).days))
    return sorted(found, key=lambda each: each[1])
