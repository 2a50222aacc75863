"""The next-visit rules in plain Python, one subject and one admission at a time: slow, written only from the rules."""

from collections import defaultdict
from datetime import timedelta

COLUMNS = ("stay_id", "role", "reason", "next_id", "start", "end", "prediction_time")
OUT_OF_ORDER = {"no subject_id", "newborn", "no admission time", "unparseable admission time"}


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
        kept.sort(key=lambda item: (item[0]["start"], item[0]["visit_id"]))
        found.update(one_subject(kept, timedelta(days=delay_days)))
    return found


def one_subject(kept, delay):
    places = []  # lists of admissions (a stay), or None for an admission that only keeps its place
    for admission, reason in kept:
        mine = [p for p in places if p and any(touches(earlier, admission) for earlier in p)]
        if reason:
            places.append(None)
        elif mine:
            mine[0].append(admission)
        else:
            places.append([admission])
    found = {}
    for i, stay in enumerate(places):
        if stay:
            found.update(one_stay(stay, places[i + 1 :], delay))
    return found


def one_stay(stay, later, delay):
    first = stay[0]
    facts = {"stay_id": first["visit_id"], "start": first["start"], "end": max(a["end"] for a in stay)}
    found = {a["visit_id"]: excluded("merged into an earlier stay", **facts) for a in stay[1:]}
    time = facts["end"] + delay
    if any(a["died"] for a in stay):
        found[first["visit_id"]] = excluded("ended in death", **facts)
    elif not any(a["coded"] for a in stay):
        found[first["visit_id"]] = excluded("no diagnosis codes", **facts)
    elif not later:
        found[first["visit_id"]] = {**facts, "role": "last", "reason": None, "next_id": None, "prediction_time": time}
    elif later[0] is None:
        found[first["visit_id"]] = excluded("next admission cannot be used", **facts)
    elif not any(a["coded"] for a in later[0]):
        found[first["visit_id"]] = excluded("next admission has no diagnosis codes", **facts)
    elif not time < later[0][0]["start"]:
        found[first["visit_id"]] = excluded("next admission before the codes are complete", **facts)
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
