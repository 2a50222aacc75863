"""The cohort card: what went in, what became of every admission and row, what the labels and texts are like, and what a
claim on this cohort may say."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from ckd.ehr.cellcounts import cell_line
from ckd.ehr.meds_metadata import SPLITS_FILE
from ckd.visits.grammar import names_the_labels
from ckd.visits.labels import CCS25, DISEASES
from ckd.visits.task import Task
from ckd.visits.visit import SPLITS, SUBGROUP_FIELDS

ASSOCIATION_FILE = "association.csv"
CLAIM = "given that the patient returns"
CLAIM_OF_ALL = "given that the patient left alive and was not back before the prediction"
MOST_LABELS = 5  # named when an ingest ends
Json = Mapping[str, Any]
Locate = Callable[[str, int], str]  # table, place -> file:line


def require_all_rows(facts: Json, tables: Json) -> None:
    """Raise RuntimeError unless the partitions counted every row of the `tables` {table: {rows}} that were read."""
    counted = {"visits": facts["admissions"]["in"], **{table: rows["read"] for table, rows in facts["rows"].items()}}
    for table, rows in counted.items():
        if rows != tables[table]["rows"]:
            raise RuntimeError(f"{rows} rows of {table} in the partitions, {tables[table]['rows']} were read")


def counted(facts: Json, cells: Sequence[Json], passed_over: Sequence[Json], locate: Locate) -> dict[str, Any]:
    """What became of every admission, row, cell and event: a part of the card, which is known before there is a split.

    `cells` as unread_cells gives them, `passed_over` as the source does. Raises RuntimeError when the admissions do not
    add up.
    """
    admissions, sexes = facts["admissions"], facts["sex"]
    excluded = _located(admissions["excluded"], "visits", locate)
    if admissions["in"] != admissions["pair"] + admissions["last"] + sum(e["rows"] for e in excluded.values()):
        raise RuntimeError(f"{admissions['in']} admissions in are not pairs + last visits + excluded")
    patients, other = facts["patients"], {table: found["other"] for table, found in sexes.items() if "other" in found}
    named = facts.get("groups", {})
    missing = {"": patients["missing"]} if patients["read"] and "missing" in patients else {}
    return {
        "admissions": {
            "in": admissions["in"],
            "pairs": admissions["pair"],
            "last_visits": admissions["last"],
            "excluded": excluded,
        },
        "patients": facts["subjects"],
        "without_patient": _located(missing, "visits", locate).get(""),
        "rows": {table: _rows(rows, table, locate) for table, rows in facts["rows"].items()},
        "cells": list(cells),
        "codes_passed_over": list(passed_over),
        "other_sex_words": {table: _located({"": e}, table, locate)[""] for table, e in other.items()},
        "unknown": _unknown(facts),
        **({"subgroups": {name: len(e["values"]) for name, e in named.items()}} if named else {}),
    }


def cohort_card(
    source: Json, settings: Json, known: Json, facts: Json, summary: Json, task: Task = CCS25
) -> dict[str, Any]:
    """The card as JSON values, with `source`, `settings` and `known` (of `counted`) as they are.
    Raises RuntimeError when the visits do not add up."""
    admissions = facts["admissions"]
    nothing = {"labeled": 0, "unlabeled": 0, "subjects": 0, "positives": [0] * len(task), "known": [0] * len(task)}
    splits: dict[str, Any] = {split: summary["splits"].get(split, nothing) for split in SPLITS}
    labeled, unlabeled = (sum(s[name] for s in splits.values()) for name in ("labeled", "unlabeled"))
    of_diseases = names_the_labels(task)
    if labeled + unlabeled != admissions["pair"] + admissions["last"] or (
        of_diseases and labeled != admissions["pair"]
    ):
        raise RuntimeError("the parts do not hold every pair and every last visit once")
    sizes = ("labeled", "unlabeled", "subjects")
    return {
        "claim": f"Every figure on this cohort reads: {CLAIM if labeled == admissions['pair'] else CLAIM_OF_ALL}.",
        "source": dict(source),
        "data_license": source["data_license"],
        "credentialed": source["credentialed"],
        "settings": dict(settings),
        **known,
        "splits": {split: {name: s[name] for name in sizes} for split, s in splits.items()},
        **({} if of_diseases else {"task": task.name, "labels": _labels(task, splits)}),
        "prevalence": _prevalence(task, splits),
        "echo_rate": _share(facts["echoes"], labeled) if "echoes" in facts else None,
        "returners": {"return": _group(facts["visits"]["pair"]), "do_not_return": _group(facts["visits"]["last"])},
        "text_length": _lengths(summary["lengths"]),
    }


def counted_lines(known: Json) -> list[str]:
    """What a person must read of `counted`, without any patient's text."""
    found, patients = known["admissions"], known["patients"]
    out = sum(e["rows"] for e in found["excluded"].values())
    said = [
        f"{found['in']:,} admissions = {found['pairs']:,} next-visit pairs + {found['last_visits']:,} last visits + "
        f"{out:,} excluded",
        f"{patients['all']:,} patients, {patients['with_two']:,} with two admissions or more: "
        f"{patients['consecutive_pairs']:,} consecutive pairs before exclusions",
    ]
    for reason, e in _by_rows(found["excluded"]):
        said.append(f"excluded {e['rows']:,}: {reason} (first: {e['first']})")
    for table, counts in known["rows"].items():
        for reason, e in _by_rows(counts["rejected"]):
            of = f"{table}: {e['rows']:,} of {counts['read']:,} rows"
            said.append(f"{of} not used: {reason} (first: {e['first']})")
        if e := counts.get("unordered"):
            what = "time" if table == "medications" else "sequence number"
            of = f"{table}: {e['rows']:,} of {counts['read']:,} rows"
            said.append(f"{of} have no {what}: they stand last, in the source's order (first: {e['first']})")
    said += [cell_line(cell) for cell in known["cells"]]
    if over := known["codes_passed_over"]:
        some = ", ".join(f"{e['prefix']} {e['events']:,} of {e['subjects']:,} patients" for e in over[:8])
        said.append(f"not read: {some}" + ("; the card lists more" if len(over) > 8 else ""))
    if e := known["without_patient"]:
        said.append(f"visits: the patient of {e['rows']:,} of {found['in']:,} has no row (first: {e['first']})")
    for table, e in known["other_sex_words"].items():
        said.append(f"{table}: {e['rows']:,} words for the sex are neither F nor M and stay (first: {e['first']})")
    for name, values in known.get("subgroups", {}).items():
        said.append(f"subgroup '{name}': {values} values")
    if unknown := {name: n for name, n in known["unknown"].items() if n and name != "visits"}:
        of = f"in {known['unknown']['visits']:,} pairs and last visits"
        said.append(f"unknown {of}: " + ", ".join(f"{name} of {n:,}" for name, n in unknown.items()))
    return said


def lines(card: Json) -> list[str]:
    """What a person must read when the cohort is finished, without any patient's text."""
    splits, said = card["splits"].items(), [*counted_lines(card), *card["source"].get("notes", ())]
    for kind, missing in card["unmapped_codes"].items():
        if missing["codes"]:
            worst = ", ".join(f"{row['code']} ({row['rows']:,})" for row in missing["most_frequent"][:5])
            lost = f"{missing['codes']:,} {kind} codes ({missing['share']:.1%} of rows)"
            said.append(f"{lost} have no {missing['without'][2:]}: {worst}; the card lists them")
    unit = "labelled visits" if "task" in card else "pairs"
    said.append(", ".join(f"{split} {s['labeled']:,} {unit} of {s['subjects']:,} patients" for split, s in splits))
    said += _label_lines(card)
    if card["settings"].get("ingest.split_column") == SPLITS_FILE:
        said.append(f"the splits are those of the data set, {SPLITS_FILE}")
    if card["unnamed_subjects"]:
        said.append(f"{card['unnamed_subjects']:,} patients have no value of {card['settings']['ingest.split_column']}")
    if card["moved_subjects"]:
        said.append(f"{card['moved_subjects']:,} patients moved by hash rank: a split would have been without a pair")
    if card["echo_rate"] is not None:
        said.append(f"echo rate: the next visit's labels equal the current ones in {card['echo_rate']:.1%} of pairs")
    said.append(f"all claims on this cohort read: {card['claim'].partition(': ')[2].rstrip('.')}")
    return said


def _label_lines(card: Json) -> list[str]:
    """Of another task than ccs25: its most frequent labels in train, and which can hardly be learned."""
    if "task" not in card:
        return []
    train = {name: splits["train"] for name, splits in card["labels"].items()}
    often = sorted(train, key=lambda name: -train[name]["true"])[:MOST_LABELS]
    counts = "; ".join(f"{name}: {train[name]['true']:,} of {train[name]['known']:,}" for name in often)
    never = sum(not each["true"] for each in train.values())
    of = f"; {never:,} of {len(train):,} labels are true of no train visit" if never else ""
    until = f"follow-up ends {card['follow_up_end'][:10]} (ingest.follow_up_end)"
    return [f"task {card['task']}, true of the train visits for which a label is known: {counts}{of}", until]


def _by_rows(reasons: Json) -> list[tuple[str, Any]]:
    return sorted(reasons.items(), key=lambda item: (-item[1]["rows"], item[0]))


def _located(reasons: Json, table: str, locate: Locate) -> dict[str, Any]:
    return {reason: {"rows": e["rows"], "first": locate(table, e["place"])} for reason, e in _by_rows(reasons)}


def _rows(counts: Json, table: str, locate: Locate) -> dict[str, Any]:
    some = {kind: counts[kind] for kind in ("untitled", "unordered") if kind in counts}
    rejected = _located(counts["rejected"], table, locate)
    return {"read": counts["read"], "used": counts["used"], "rejected": rejected, **_located(some, table, locate)}


def _unknown(facts: Json) -> dict[str, int]:
    """Pairs and last visits together, and those of unknown age, sex and so on."""
    groups = list(facts["visits"].values())
    visits = sum(group["visits"] for group in groups)
    known = {name: sum(group[f"{name}_known"] for group in groups) for name in SUBGROUP_FIELDS}
    known |= {name: found["visits"] for name, found in facts.get("groups", {}).items()}
    return {"visits": visits, **{name: visits - n for name, n in known.items()}}


def _labels(task: Task, splits: Mapping[str, Json]) -> dict[str, Any]:
    """Per label and split for how many visits it is known, and of how many it is true."""
    return {
        name: {split: {"known": s["known"][k], "true": s["positives"][k]} for split, s in splits.items()}
        for k, name in enumerate(task.names)
    }


def _prevalence(task: Task, splits: Mapping[str, Json]) -> dict[str, dict[str, float | None]]:
    """Per label and split the share among the visits for which the label is known."""
    known = {split: s.get("known", [s["labeled"]] * len(task)) for split, s in splits.items()}
    return {
        name: {split: _share(s["positives"][k], known[split][k]) for split, s in splits.items()}
        for k, name in enumerate(task.names)
    }


def _group(sums: Json) -> dict[str, Any]:
    """Means over the current visits of one group."""
    visits = sums["visits"]
    return {
        "visits": visits,
        "mean_age": _share(sums["age_sum"], sums["age_known"]),
        "women": _share(sums["women"], sums["sex_known"]),
        **{f"{table}_per_visit": _share(sums[table], visits) for table in ("diagnoses", "medications", "procedures")},
        "current_prevalence": {disease: _share(sums["labels"][disease], visits) for disease in DISEASES},
    }


def _lengths(steps: Mapping[str, int]) -> dict[str, int | None]:
    """Quantiles of the texts' characters, to the step in which they were counted."""
    ordered = sorted((int(step), visits) for step, visits in steps.items())
    sums = list(accumulate(visits for _, visits in ordered))
    quantiles = {"median": 0.5, "p95": 0.95, "max": 1.0}
    found = {name: bisect_left(sums, sums[-1] * share) for name, share in quantiles.items()} if sums else {}
    return {name: ordered[found[name]][0] if found else None for name in quantiles}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
