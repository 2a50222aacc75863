"""What the labels of a task are, in plain Python: one code, one visit, one label at a time, from docs/labels.md.
For rows of MIMIC-III-shaped tables as read_tables gives them."""

from datetime import datetime, timedelta

from ckd.ehr.ccs import ccs
from tests.ehr.ehr_reference import chain_by_hand, own_reason
from tests.ehr.ingest_reference import judgeable, time, usable


def plain(code):
    return code.strip().replace(".", "").upper()


def in_range(code, written):
    low, _, high = written.partition("-")
    low, high = plain(low), plain(high or low)
    if len(code) < len(low) or len(code) < len(high):
        return False
    return low <= code[: len(low)] and code[: len(high)] <= high


def stands_for(label, code, version):
    """Whether a label's own codes include this one."""
    code = plain(code)
    written, excluded = (label.icd9, label.excluding.icd9) if version == "9" else (label.icd10, label.excluding.icd10)
    group = ccs(code, version)
    yes = group is not None and int(group) in label.ccs
    yes = yes or any(in_range(code, each) for each in written)
    yes = yes or any(plain(each) == code and v == version for each, v in label.codes)
    return yes and not any(in_range(code, each) for each in excluded)


def labels_by_hand(task, tables, follow_up_end, delay=3):
    """{visit_id: (values now, values after)}, None where unknown."""
    stays = {row["hadm_id"]: row for row in tables["admissions"]}
    diagnoses = usable(tables["diagnoses_icd"], stays)
    judgeables = {visit: judgeable(row, diagnoses) for visit, row in stays.items()}
    judged = chain_by_hand(list(judgeables.values()), delay, False)
    found = {}
    for visit, verdict in judged.items():
        if verdict["role"] != "excluded":
            subject = stays[visit]["subject_id"]
            mine = [v for v, row in stays.items() if row["subject_id"] == subject]
            life = Life(tables, diagnoses, {v: judgeables[v] for v in mine}, {v: judged[v] for v in mine}, subject)
            found[visit] = values(task, visit, life, follow_up_end)
    return found


class Life:
    """One patient: the places in order, the codes of each stay, the death."""

    def __init__(self, tables, diagnoses, admissions, judged, subject):
        self.judged = judged
        self.codes = {v: set() for v in admissions}
        for row in diagnoses:
            if row["hadm_id"] in admissions and judged[row["hadm_id"]]["stay_id"]:
                self.codes[judged[row["hadm_id"]]["stay_id"]].add(row["icd9_code"])
        self.coded = {
            judged[v]["stay_id"]: any(a["coded"] for w, a in admissions.items() if same_stay(judged, v, w))
            for v in admissions
        }
        places = [(judged[v]["start"], v, judged[v]["end"]) for v in admissions if judged[v]["stay_id"] == v]
        unclear = [a for a in admissions.values() if own_reason(a, False) not in (None, "newborn")]
        self.places = places + [(a["start"], None, a["end"]) for a in unclear]
        dates = [time(row["dod"]) for row in tables["patients"] if row["subject_id"] == subject]
        dates += [judged[v]["end"] for v, a in admissions.items() if a["died"]]
        self.death = min((each for each in dates if each), default=None)


def same_stay(judged, one, other):
    return judged[one]["stay_id"] is not None and judged[one]["stay_id"] == judged[other]["stay_id"]


def values(task, visit, life, follow_up_end):
    now, after = {}, {}
    for label in task.labels:
        now[label.name] = present(label, visit, life, now)
        after[label.name] = outcome(label, visit, life, follow_up_end, after)
    return list(now.values()), list(after.values())


def present(label, visit, life, now):
    if not (label.coded or label.any_of):
        return None
    parts = [now[name] for name in label.any_of]
    if None in parts:
        return None
    return has(label, visit, life) or any(parts)


def has(label, stay, life):
    return any(stands_for(label, code, "9") for code in life.codes[stay])


def outcome(label, visit, life, follow_up_end, after):
    verdict = life.judged[visit]
    parts = [after[name] for name in label.any_of]
    if label.coded and label.within_days is None:
        parts.append(None if verdict["next_id"] is None else has(label, verdict["next_id"], life))
    elif not label.any_of or label.coded:
        parts.append(timed(label, visit, life, follow_up_end))
    if True in parts:
        return True
    return None if None in parts else False


def timed(label, visit, life, follow_up_end):
    end = life.judged[visit]["end"]
    window = end + timedelta(days=label.within_days or label.readmission_days or label.death_days)
    over = min(window, life.death) if life.death and life.death.date() >= end.date() else window
    seen = [t for start, _, until in life.places for t in (start, until) if t]
    followed = over <= follow_up_end or any(t > over for t in seen)
    impossible = life.death is not None and (
        life.death.date() < end.date() or life.death <= life.judged[visit]["prediction_time"]
    )
    later = [stay for start, stay, until in life.places if may_begin(start, until, end, window)]
    if label.within_days:
        if any(stay and has(label, stay, life) for stay in later):
            return True
        all_coded = all(stay is not None and life.coded[stay] for stay in later)
        return False if followed and all_coded and not impossible else None
    if impossible:
        return None
    if label.death_days:
        happened = life.death is not None and life.death <= window
        return True if happened else False if followed else None
    following = life.judged[visit]["next_id"]
    if following:
        return life.judged[following]["start"] <= window
    return False if followed else None


def may_begin(start, until, end, window):
    if start is None:
        return until is None or until > end
    return end < start <= window


def latest_discharge(tables):
    pairs = [(time(row["admittime"]), time(row["dischtime"])) for row in tables["admissions"]]
    return max(end for start, end in pairs if start and end and end >= start)


def day(text):
    return datetime.fromisoformat(text)
