"""Codes that mean nothing here: how many, which, what they look like. A cohort of too many of them is refused: a
patient whose codes nobody can read would pass for a healthy one."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from ckd.ehr.ccs import ccs, full_codes, is_category, normal, read_version
from ckd.ehr.codes import DIAGNOSIS, PROCEDURE, TABLES, Codes
from ckd.errors import DataError

MOST_CODES = 200  # in the card, most frequent first
NAMED_CODES = 10  # in the refusal
WITHHELD = "(not like a code)"
_LIKE_A_CODE = re.compile(r"(?=.*\d)[A-Za-z0-9.]{1,8}")
_SEVERAL = re.compile(r"[A-Za-z]?\d[A-Za-z0-9.]*[!+*#†‡]?(\s*[,;/|]\s*|\s+)[A-Za-z]?\d[A-Za-z0-9.]*(.*)")
_AFTER_A_WORD = re.compile(r"ICD[\w -]*?\s*[:/|]\s*\S+", re.IGNORECASE)
_ICD10 = re.compile(r"[A-Z]\d[0-9A-Z].*")
Json = Mapping[str, Any]
Locate = Callable[[str, int], str]  # table, place -> file:line


def unmapped_codes(codes: pl.DataFrame, described: Codes, facts: Json, locate: Locate) -> dict[str, Any]:
    """Diagnosis codes without a CCS category, procedure codes without a title: rows, share, the most frequent ones.

    `codes`: kind, code, version, rows, place of every distinct code. `facts`: admissions with a usable diagnosis, with
    one that is not mapped, without any that is.
    """
    found = {}
    for kind, describe, without, lost in (
        (DIAGNOSIS, described.diagnoses, "a CCS category", ~pl.col("mapped")),
        (PROCEDURE, described.procedures, "a title", pl.col("title").is_null()),
    ):
        rows = codes.filter(pl.col("kind") == kind)
        meanings = describe(rows.select("code", "version"))
        table = rows.join(meanings, on=["code", "version"], how="left", nulls_equal=True)
        missing = table.filter(lost).sort(["rows", "version", "code"], descending=[True, False, False])
        first = missing.head(MOST_CODES).select("code", "version", "rows", "place").iter_rows()
        count = int(missing["rows"].sum())
        found[kind] = {
            "without": without,
            "codes": missing.height,
            "rows": count,
            "share": _share(count, int(rows["rows"].sum())),
            "first": locate(TABLES[kind], missing.select(pl.col("place").min()).item()) if count else None,
            "most_frequent": [
                {"code": _shown(code), "version": _shown(version), "rows": n, "first": locate(TABLES[kind], place)}
                for code, version, n, place in first
            ],
        }
        if kind == DIAGNOSIS:
            found[kind]["visits"] = {**facts, "share": _share(facts["some_unmapped"], facts["coded"])}
            found[kind]["looks"] = _looks(missing)
    return found


def require_mapped(unmapped: Json, most: float) -> None:
    """Raise DataError when more than `most` of the diagnosis rows have no CCS category."""
    found = unmapped[DIAGNOSIS]
    if not found["rows"] or found["share"] <= most:
        return
    rows: Counter[str] = Counter()
    for each in found["most_frequent"]:
        rows[each["code"]] += each["rows"]
    named = ", ".join(f"{code} ({n:,})" for code, n in rows.most_common(NAMED_CODES))
    like = "; ".join(f"{share:.0%} of them look like {look}" for look, share in found["looks"].items())
    what = f"{found['share']:.1%} of the diagnosis rows have no CCS category, more than ingest.max_unmapped ({most:g})"
    remedy = "mend the codes or their version, name your own in ingest.code_map=FILE, or set ingest.max_unmapped"
    raise DataError(f"{found['first']}: {what}: {named}{'; ' + like if like else ''}; {remedy}")


def look(code: str, version: str | None) -> str | None:
    """What a code without a category looks like; None where nothing is known."""
    plain, known = normal(code), read_version(version)
    number = plain.isdecimal()
    seen = {
        "two codes in a cell": _SEVERAL.fullmatch(code.strip()),
        "codes behind a word": _AFTER_A_WORD.fullmatch(code.strip()),
        "codes of a version that is neither 9 nor 10": known is None,
        "codes cut to their category": known and is_category(plain, known),
        "codes with more in the cell": known and " " in code.strip() and ccs(normal(code.split()[0]), known),
        "SNOMED CT numbers": number and len(plain) > 5,
        "ICD-10 codes marked 9": known == "9" and _ICD10.fullmatch(plain) and ccs(plain, "10"),
        "ICD-9 codes marked 10": known == "10" and ccs(plain, "9"),
        "ICD-9 codes that lost their leading zeros": known == "9" and number and _with_zeros(plain),
        "words": not re.search(r"\d", plain),
    }
    return next((name for name, found in seen.items() if found), None)


def _with_zeros(code: str) -> bool:
    return any(zeros + code in full_codes("9") for zeros in ("0", "00"))


def _looks(missing: pl.DataFrame) -> dict[str, float]:
    """The commonest looks, with their share of the rows."""
    rows: Counter[str] = Counter()
    for code, version, count in missing.select("code", "version", "rows").iter_rows():
        if found := look(code, version):
            rows[found] += count
    whole = int(missing["rows"].sum())
    return {name: count / whole for name, count in rows.most_common(2)}


def _shown(text: str | None) -> str | None:
    """The text if it looks like a code: a column of codes may hold anything, a patient's words too."""
    return text if text is None or _LIKE_A_CODE.fullmatch(text) else WITHHELD


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
