"""The kind of source that is eICU-CRD 2.0: hospital stays made of the rows of their unit stays, codes out of cells with
several, times from offsets. It has no dates; stay_order.py says what is known of a patient's order of stays.

The table of patients is small (200,000 rows in all) and is held in memory. `treatment` has no codes and is not read."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import polars as pl

from ckd.ehr.canonical import ODD, SCHEMAS, SUSPECT, with_missing
from ckd.ehr.ccs import ccs, normal
from ckd.ehr.groups import GROUPS
from ckd.ehr.icdtext import version_of
from ckd.ehr.joined import Joined, looked_up
from ckd.ehr.pairs import NO_START
from ckd.ehr.stay_order import placed
from ckd.errors import DataError

_PRIORITIES = {"primary": 1, "major": 2, "other": 3}
_NO_DATES = "eICU has no dates: the times of this cohort tell only the order of a patient's stays and their length"


class Eicu(Joined):
    """A folder of eICU-CRD tables."""

    WHOLE: ClassVar[frozenset[str]] = frozenset(("unit", "admit", "discharge", "year", "number", "offset"))
    dated: ClassVar[bool] = False

    def rows(self, table: str) -> pl.LazyFrame:
        """Table `table` of the hospital stays.
        Raises DataError for an offset or year that is no number, and a unit stay that is there twice."""
        made = {"visits": self._visits, "diagnoses": self._diagnoses, "medications": self._medications}
        schema = {**SCHEMAS[table], "subject_id": pl.String(), ODD: pl.UInt32(), SUSPECT: pl.Boolean()}
        if table not in made:
            return pl.LazyFrame(schema=schema)
        return with_missing(made[table](), schema).select(*schema)

    @property
    def death_days(self) -> float:
        """Only deaths in hospital are known."""
        return 0

    @property
    def remedies(self) -> Mapping[str, str]:
        """No time can be given where there are none."""
        what = "nothing in eICU orders stays of one year of discharge and one age; give tables of more patients"
        return {NO_START: f"{what} (docs/tables.md)"}

    @cached_property
    def passed_over(self) -> list[dict[str, Any]]:
        """{prefix, events, subjects} of the orders of drugs that were cancelled."""
        rows = self.given("medications").filter(_cancelled()).join(self._units.lazy(), on="unit", how="left")
        rows = rows.select(pl.len(), pl.col("subject_id").n_unique())
        events, subjects = rows.collect(engine="streaming").row(0)
        return [{"prefix": "cancelled orders", "events": events, "subjects": subjects}] if events else []

    @property
    def description(self) -> dict[str, Any]:
        """What the cohort's card says of the source: also what is not known of the order of stays."""
        unordered = self._stays.filter("unordered")
        found = {"stays": unordered.height, "subjects": unordered["subject_id"].n_unique()}
        what = "have no known order (of one year and age, without a year, or ages against the years)"
        said = f"{found['stays']:,} stays of {found['subjects']:,} patients {what}: they count as '{NO_START}'"
        notes = [_NO_DATES, said]
        if silent := int(self._stays["silent"].fill_null(True).sum()):
            notes.append(f"no hospitaldischargestatus says how {silent:,} stays ended: they count as survived")
        return {**super().description, "unordered": found, "notes": notes}

    def _visits(self) -> pl.LazyFrame:
        return self._stays.lazy().with_columns(
            start_bad=pl.lit(False), end_bad=pl.lit(False), newborn=pl.lit(False), dod=pl.lit(None)
        )

    def _diagnoses(self) -> pl.LazyFrame:
        rows = self._of_units("diagnoses")
        distinct = rows.select(pl.col("code").unique()).collect(engine="streaming")
        found = [codes_in(cell or "") for cell in distinct["code"]]
        kind = pl.List(pl.Struct({"code": pl.String, "version": pl.String}))
        codes = distinct.with_columns(
            found=pl.Series([[{"code": c, "version": v} for c, v in each] or [None] for each in found], dtype=kind)
        )
        rows = looked_up(rows, codes, "code").drop("code").explode("found")
        seq = pl.col("priority").str.to_lowercase().replace_strict(_PRIORITIES, default=None, return_dtype=pl.Int32)
        return rows.with_columns(seq=seq).unnest("found")

    def _medications(self) -> pl.LazyFrame:
        self.require_words("medications", "cancelled", "Yes", "No")
        rows = self._of_units("medications").filter(~_cancelled())
        minutes = pl.col("offset") - pl.col("admit")
        return rows.with_columns(start=pl.col("start") + pl.duration(minutes=minutes))

    def _of_units(self, table: str) -> pl.LazyFrame:
        """The rows of a table with the hospital stay of their unit stay."""
        units = self._units.drop_nulls("unit").select("unit", "visit_id", "subject_id", "admit")
        units = units.join(self._stays.select("visit_id", "start"), on="visit_id", how="left")
        return looked_up(self.given(table), units, "unit")

    @cached_property
    def _units(self) -> pl.DataFrame:
        """The rows of unit stays."""
        for name in {"status", "unit_status"} & set(self.given("visits").collect_schema()):
            self.require_words("visits", name, "Alive", "Expired")
        units = with_missing(self.given("visits"), {"number": pl.Int64(), "unit_status": pl.String()}).collect()
        twice = units.filter(pl.col("unit").is_not_null() & ~pl.col("unit").is_first_distinct())
        if twice.height:
            where = self.locate("visits", int(twice["place"][0]))
            raise DataError(f"{where}: this patientunitstayid is there already; keep one row for each unit stay")
        return units

    @cached_property
    def _stays(self) -> pl.DataFrame:
        """The hospital stays, with their place in the patient's order. The first unit stay of one, whose attributes it
        has, lies nearest to its admission."""
        units = self._units.sort(["admit", "number", "unit"], descending=[True, False, False], nulls_last=True)
        one_patient = pl.col("subject_id").n_unique() == 1
        dead = pl.any_horizontal(pl.col("status", "unit_status").str.to_lowercase() == "expired").fill_null(False)
        first = [pl.col(name).first() for name in ("age", "sex", "ethnicity", "year", "place", *self._more)]
        with_id = units.filter(pl.col("visit_id").is_not_null()).group_by("visit_id", maintain_order=True)
        stays = with_id.agg(
            *first,
            pl.col(ODD).bitwise_or(),
            pl.col(SUSPECT).any(),
            died=dead.any(),
            silent=pl.col("status").is_null().all() & ~dead.any(),
            minutes=(pl.col("discharge") - pl.col("admit")).first(),
            subject_id=pl.when(one_patient).then(pl.col("subject_id").first()),
        )
        without = units.filter(pl.col("visit_id").is_null())
        stays = pl.concat([stays, without.select(c for c in without.columns if c in stays.columns)], how="diagonal")
        return placed(stays.with_columns(years=pl.col("age").cast(pl.Float64, strict=False).floor().cast(pl.Int64)))

    @property
    def _more(self) -> list[str]:
        return [name for name in ("cut", GROUPS) if name in self._units.columns]


def codes_in(cell: str) -> list[tuple[str, str | None]]:
    """(code, version) of a cell such as "038.9, A41.9", which says one diagnosis in both editions: the codes of the
    edition that comes first, or of the first one with a category."""
    codes = [(code, version_of(code)) for part in cell.split(",") if (code := part.strip())]
    known = [version for code, version in codes if version and ccs(normal(code), version)]
    chosen = next(iter(known), codes[0][1] if codes else None)
    return [(code, version) for code, version in codes if version == chosen]


def _cancelled() -> pl.Expr:
    return (pl.col("cancelled").str.to_lowercase() == "yes").fill_null(False)
