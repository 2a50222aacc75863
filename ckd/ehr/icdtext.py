"""Which edition of ICD a diagnosis code is of, where only the code is there: by its form, else by HCUP's tables."""

import re

from ckd.ehr.ccs import ccs, full_codes, normal

_FORMS = {
    "9": re.compile(r"(?:\d{3}|V\d{2})(?:\.?\d{1,2})?|E\d{3}(?:\.?\d)?"),
    "10": re.compile(r"[A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?"),
}


def version_of(code: str) -> str | None:
    """ "9" or "10"; None for what has the form of neither, or of both without being known in exactly one.

    A code with V or E in front may be of either: E849.7 and E11.9 differ by their points, V45.81 is known in ICD-9-CM.
    """
    code = code.strip().upper()
    fits = [version for version, form in _FORMS.items() if form.fullmatch(code)]
    if len(fits) < 2:
        return fits[0] if fits else None
    whole = [version for version in fits if normal(code) in full_codes(version)]
    known = whole or [version for version in fits if ccs(normal(code), version)]
    return known[0] if len(known) == 1 else None


def known_version_of(code: str) -> str | None:
    """The same, but None for a code without a CCS category: a site's own code may have the form of one of ICD."""
    version = version_of(code)
    return version if version and ccs(normal(code), version) else None
