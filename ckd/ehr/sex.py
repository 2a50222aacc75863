"""What a source's words for the sex stand for, as F or M; a word of neither list stays as it is and is counted.

M is a man, but a woman (mujer) beside H or V for a man (hombre, varón): then ingest.sex_words must say which. So it
must for 0 and 1, which are used either way round.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ckd.errors import ConfigError

_WOMAN = "f female w weiblich frau woman k kobieta kadın femme feminin féminin femenino mujer femmina vrouw 2 8532"
_MAN = "m male man h männlich maennlich mann hombre masculino masculin homme mężczyzna erkek maschio 1 8507"
WORDS: Mapping[str, str] = {**dict.fromkeys(_WOMAN.split(), "F"), **dict.fromkeys(_MAN.split(), "M")}
_BESIDE_M = ("h", "v")


def as_f_or_m(column: str, given: Mapping[str, str]) -> pl.Expr:
    """The column with its words as F and M. `given`: the user's words, which win."""
    word = pl.col(column).str.strip_chars().str.to_lowercase()
    known = {**WORDS, **{word.lower(): sex for word, sex in given.items()}}
    return pl.coalesce(word.replace_strict(known, default=None, return_dtype=pl.String), column).alias(column)


def counted(rows: pl.DataFrame, given: Mapping[str, str]) -> dict[str, Any]:
    """{"words": {word: rows}} of those that have a meaning, or might have two; "other" {rows, place} of the rest."""
    rows = rows.select("place", word=pl.col("sex").str.strip_chars().str.to_lowercase()).drop_nulls("word")
    named = [*WORDS, *_BESIDE_M, "0", *(word.lower() for word in given)]
    words = rows.filter(pl.col("word").is_in(named)).group_by("word").len().sort("word")
    known = [*WORDS, *(word.lower() for word in given)]
    other = rows.filter(~pl.col("word").is_in(known)).select(rows=pl.len(), place=pl.col("place").min())
    found: dict[str, Any] = {"words": dict(words.iter_rows())}
    return found | ({"other": other.row(0, named=True)} if other["rows"].item() else {})


def require_one_meaning(words: Sequence[Mapping[str, int]], given: Mapping[str, str]) -> None:
    """Raise ConfigError when the `words` of a source, per table, may mean two things and `given` does not say which."""
    for found in words:
        beside = [word for word in _BESIDE_M if word in found and "m" in found]
        numbers = ["0"] if {"0", "1"} <= set(found) and "2" not in found else []
        for word in beside or numbers:
            other = "m" if beside else "1"
            if not {word, other} & {word.lower() for word in given}:
                what = f"the sex is written {word.upper()} and {other.upper()}, so which is a woman is open"
                example = f'{{"{word.upper()}": "M", "{other.upper()}": "F"}}'
                raise ConfigError(f"ingest.sex_words: {what}; say it, such as ingest.sex_words='{example}'")
