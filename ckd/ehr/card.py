"""The cohort card: what went in, what became of every admission and row, what the labels and texts are like, and what a claim on this cohort
may say. Counting belongs to assemble and ingest; the association table to association."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from ckd.ehr.codes import Codes
from ckd.visits.labels import DISEASES
from ckd.visits.visit import SPLITS

CLAIM = "given that the patient returns"
MOST_CODES = 200  # unmapped codes in the card, most frequent first
TABLE_OF = {"diagnosis": "diagnoses", "procedure": "procedures"}
WITHHELD = "(not like a code)"
_LIKE_A_CODE = re.compile(r"(?=.*\d)[A-Za-z0-9.]{1,8}")
Locate = Callable[[str, int], str]  # table, place -> file:line


def cohort_card(
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    summary: Mapping[str, Any],
    locate: Locate,
) -> dict[str, Any]:
    """The card as JSON values. `source` and `settings` stand in it as they are. Raises RuntimeError when admissions or visits do not add up."""
    admissions = facts["admissions"]
    excluded = _located(admissions["excluded"], "visits", locate)
    if admissions["in"] != admissions["pair"] + admissions["last"] + sum(e["rows"] for e in excluded.values()):
        raise RuntimeError(f"{admissions['in']} admissions in are not pairs + last visits + excluded")
    splits: dict[str, Any] = {split: summary["splits"].get(split, _NO_SPLIT) for split in SPLITS}
    if (
        sum(s["labeled"] for s in splits.values()) != admissions["pair"]
        or sum(s["unlabeled"] for s in splits.values()) != admissions["last"]
    ):
        raise RuntimeError("the parts do not hold every pair and every last visit once")
    return {
        "claim": f"Every figure on this cohort reads: {CLAIM}.",
        "source": dict(source),
        "data_license": source["data_license"],
        "credentialed": source["credentialed"],
        "settings": dict(settings),
        "admissions": {
            "in": admissions["in"],
            "pairs": admissions["pair"],
            "last_visits": admissions["last"],
            "excluded": excluded,
        },
        "patients": facts["subjects"],
        "rows": {table: _rows(counts, table, locate) for table, counts in facts["rows"].items()},
        "splits": {
            split: {name: s[name] for name in ("labeled", "unlabeled", "subjects")} for split, s in splits.items()
        },
        "prevalence": _prevalence(splits),
        "echo_rate": _share(facts["echoes"], admissions["pair"]),
        "returners": {"return": _group(facts["visits"]["pair"]), "do_not_return": _group(facts["visits"]["last"])},
        "text_length": _lengths(summary["lengths"]),
    }


def unmapped_codes(codes: pl.DataFrame, described: Codes, locate: Locate) -> dict[str, Any]:
    """Diagnosis codes without a CCS category and codes without a title: rows, share of all rows, the most frequent ones.

    `codes`: kind, code, version, rows, place of every distinct code.
    """
    found = {}
    for kind, describe, flag in (
        ("diagnosis", described.diagnoses, "mapped"),
        ("procedure", described.procedures, "title"),
    ):
        rows = codes.filter(pl.col("kind") == kind)
        table = rows.join(
            describe(rows.select("code", "version")), on=["code", "version"], how="left", nulls_equal=True
        )
        lost = ~pl.col("mapped") if flag == "mapped" else pl.col("title").is_null()
        missing = table.filter(lost).sort(["rows", "version", "code"], descending=[True, False, False])
        first = missing.head(MOST_CODES).select("code", "version", "rows", "place").iter_rows()
        found[kind] = {
            "without": "a CCS category" if flag == "mapped" else "a title",
            "codes": missing.height,
            "rows": int(missing["rows"].sum()),
            "share": _share(int(missing["rows"].sum()), int(rows["rows"].sum())),
            "most_frequent": [
                {
                    "code": _shown(code),
                    "version": _shown(version),
                    "rows": count,
                    "first": locate(TABLE_OF[kind], place),
                }
                for code, version, count, place in first
            ],
        }
    return found


def lines(card: Mapping[str, Any]) -> list[str]:
    """What a person must be told when the cohort is finished, without any patient's text."""
    admissions = card["admissions"]
    out = sum(e["rows"] for e in admissions["excluded"].values())
    said = [
        f"{admissions['in']:,} admissions = {admissions['pairs']:,} next-visit pairs + {admissions['last_visits']:,} last visits + {out:,} excluded"
    ]
    patients = card["patients"]
    said.append(
        f"{patients['all']:,} patients, {patients['with_two']:,} with two admissions or more: "
        f"{patients['consecutive_pairs']:,} consecutive pairs before exclusions"
    )
    said += [
        f"excluded {e['rows']:,}: {reason} (first: {e['first']})" for reason, e in _by_rows(admissions["excluded"])
    ]
    for table, counts in card["rows"].items():
        said += [
            f"{table}: {e['rows']:,} of {counts['read']:,} rows not used: {reason} (first: {e['first']})"
            for reason, e in _by_rows(counts["rejected"])
        ]
    for kind, missing in card["unmapped_codes"].items():
        if missing["codes"]:
            worst = ", ".join(f"{row['code']} ({row['rows']:,})" for row in missing["most_frequent"][:5])
            said.append(
                f"{missing['codes']:,} {kind} codes ({missing['share']:.1%} of rows) have no {missing['without'][2:]}: {worst}; the card lists them"
            )
    said.append(
        ", ".join(
            f"{split} {s['labeled']:,} pairs of {s['subjects']:,} patients" for split, s in card["splits"].items()
        )
    )
    if card["moved_subjects"]:
        said.append(f"{card['moved_subjects']:,} patients moved by hash rank: a split would have been without a pair")
    if card["echo_rate"] is not None:
        said.append(f"echo rate: the next visit's labels equal the current ones in {card['echo_rate']:.1%} of pairs")
    said.append(f"all claims on this cohort read: {CLAIM}")
    return said


_NO_SPLIT: dict[str, Any] = {"labeled": 0, "unlabeled": 0, "subjects": 0, "positives": [0] * len(DISEASES)}


def _shown(text: str | None) -> str | None:
    """What stands in a column of codes may be anything, a patient's words too: only what looks like a code is told."""
    return text if text is None or _LIKE_A_CODE.fullmatch(text) else WITHHELD


def _by_rows(reasons: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(reasons.items(), key=lambda item: (-item[1]["rows"], item[0]))


def _located(reasons: Mapping[str, Any], table: str, locate: Locate) -> dict[str, Any]:
    return {reason: {"rows": e["rows"], "first": locate(table, e["place"])} for reason, e in _by_rows(reasons)}


def _rows(counts: Mapping[str, Any], table: str, locate: Locate) -> dict[str, Any]:
    untitled = {"untitled": _located({"": counts["untitled"]}, table, locate)[""]} if "untitled" in counts else {}
    return {
        "read": counts["read"],
        "used": counts["used"],
        "rejected": _located(counts["rejected"], table, locate),
        **untitled,
    }


def _prevalence(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    return {
        disease: {split: _share(s["positives"][k], s["labeled"]) for split, s in splits.items()}
        for k, disease in enumerate(DISEASES)
    }


def _group(sums: Mapping[str, Any]) -> dict[str, Any]:
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
    total = sum(visits for _, visits in ordered)
    return {name: _quantile(ordered, total * share) for name, share in (("median", 0.5), ("p95", 0.95), ("max", 1.0))}


def _quantile(ordered: list[tuple[int, int]], rank: float) -> int | None:
    seen = 0
    for step, visits in ordered:
        seen += visits
        if seen >= rank:
            return step
    return None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
