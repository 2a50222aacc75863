"""The vocabulary tables of OMOP: what a concept is called, its ICD code, which concepts are mapped to it.
Only what the patients' rows name is kept; costs a pass over the concepts, and one over their relationships."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from ckd.errors import DataError

# vocabulary_id -> version, as OHDSI names them; the national editions of ICD-10 are read as ICD-10.
ICD: Mapping[str, str] = {
    "ICD9CM": "9",
    **dict.fromkeys(("ICD10", "ICD10CM", "ICD10GM", "ICD10CN", "CIM10", "KCD7"), "10"),
}
PROCEDURES: Mapping[str, str] = {"ICD9Proc": "9", "ICD10PCS": "10"}
INPATIENT = (9201, 262, 8717)  # Inpatient Visit, Emergency Room and Inpatient Visit, Inpatient Hospital
NO_RELATIONS = pl.LazyFrame(schema={"first": pl.Int64, "second": pl.Int64, "relation": pl.String})
_MAPS, _MAPPED = "Maps to", "Mapped from"
_IS_A, _SUBSUMES = "Is a", "Subsumes"


@dataclass(frozen=True)
class Concepts:
    """`rows`: id, name, vocabulary, code and, if it is there, domain. `relations`: first, second, relation and, if it
    is there, invalid."""

    rows: pl.LazyFrame
    relations: pl.LazyFrame
    where: str  # the file of concepts

    def of(self, ids: Collection[int]) -> pl.DataFrame:
        """id, name, vocabulary, code of these concepts. Raises DataError for one that is there twice."""
        rows = self.rows.filter(pl.col("id").is_in(sorted(ids))).select("id", "name", "vocabulary", "code")
        found = rows.collect(engine="streaming")
        if twice := found.filter(found["id"].is_duplicated())["id"].to_list():
            raise DataError(f"{self.where}: concept_id {min(twice)} is there twice; keep one row for each concept")
        return found

    def icd_versions(self, codes: Collection[str]) -> dict[str, set[str]]:
        """Normal code -> the versions in which it is a concept, of those among `codes` that are one."""
        normal = pl.col("code").str.replace_all(".", "", literal=True).str.to_uppercase()
        rows = self.rows.filter(pl.col("vocabulary").is_in(list(ICD))).select("vocabulary", code=normal)
        found: dict[str, set[str]] = defaultdict(set)
        for vocabulary, code in rows.filter(pl.col("code").is_in(sorted(codes))).unique().collect().iter_rows():
            found[code].add(ICD[vocabulary])
        return dict(found)

    def mapped_to(self, ids: Collection[int]) -> dict[int, set[tuple[str, str]]]:
        """Standard concept -> (version, code) of every ICD concept that is mapped to it."""
        maps = [(_MAPS, "second", "first"), (_MAPPED, "first", "second")]
        pairs = pl.concat(
            self._valid(relation)
            .filter(pl.col(standard).is_in(sorted(ids)))
            .select(standard=pl.col(standard), source=pl.col(source))
            for relation, standard, source in maps
        )
        mapped = pairs.unique().collect(engine="streaming")
        sources = {
            number: (ICD[vocabulary], code)
            for number, _, vocabulary, code in self.of(mapped["source"].drop_nulls().to_list()).iter_rows()
            if vocabulary in ICD and code
        }
        found: dict[int, set[tuple[str, str]]] = defaultdict(set)
        for standard, source in mapped.iter_rows():
            if source in sources:
                found[standard].add(sources[source])
        return dict(found)

    def inpatient(self) -> frozenset[int]:
        """The concepts of a hospital stay and, as far as there are relationships, what is below them."""
        below: dict[int, set[int]] = defaultdict(set)
        if "domain" in self.rows.collect_schema().names():
            visits = self.rows.filter(pl.col("domain") == "Visit").select("id").collect()["id"].implode()
            among = pl.col("first").is_in(visits) & pl.col("second").is_in(visits)
            pairs = pl.concat(
                self._valid(relation).filter(among).select(lower=pl.col(lower), upper=pl.col(upper))
                for relation, lower, upper in ((_IS_A, "first", "second"), (_SUBSUMES, "second", "first"))
            )
            for lower, upper in pairs.unique().collect(engine="streaming").iter_rows():
                below[upper].add(lower)
        found, new = set(INPATIENT), set(INPATIENT)
        while new:
            new = {lower for upper in new for lower in below[upper]} - found
            found |= new
        return frozenset(found)

    def _valid(self, relation: str) -> pl.LazyFrame:
        rows = self.relations.filter(pl.col("relation") == relation)
        valid = pl.col("invalid").is_null() if "invalid" in rows.collect_schema().names() else pl.lit(True)
        return rows.filter(valid)
