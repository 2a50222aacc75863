"""The kind of source that is an OMOP CDM: hospital stays are its inpatient visits, codes and names those of its
concepts. Which ICD code a condition has: omop_codes.py. Costs one pass more over each of the large tables, for their
distinct concepts and for the visits that are no hospital stay."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from ckd.ehr import values
from ckd.ehr.canonical import ODD, SCHEMAS, SUSPECT, TIME, TITLES, with_missing
from ckd.ehr.ccs import normal
from ckd.ehr.cells import unread
from ckd.ehr.codemap import version_key
from ckd.ehr.csvfile import CsvFile, first_line
from ckd.ehr.joined import Joined, Raw, looked_up, text, whole
from ckd.ehr.omop_codes import KEY, NONE, WAYS, CodeBook, chosen, no_code, notes_of
from ckd.ehr.omop_concepts import ICD, INPATIENT, NO_RELATIONS, PROCEDURES, Concepts
from ckd.ehr.parquetfile import ParquetFile
from ckd.ehr.tabfile import TabFile
from ckd.errors import DataError

_EVENTS = ("diagnoses", "medications", "procedures")
_TIMES = ("start", "end", "death")
_SEXES = {8507: "M", 8532: "F"}
_END_DAY = "end_day"
_MOST = 20  # concepts of visits that are named
_CODED = {"diagnosis": ICD, "procedure": PROCEDURES}


@dataclass(frozen=True)
class Omop(Joined):
    """A folder of OMOP CDM 5.3 or 5.4 tables."""

    WHOLE: ClassVar[frozenset[str]] = frozenset(
        ("concept", "source", "gender", "race", "month", "day", "id", "first", "second")
    )
    LIKE: ClassVar[Mapping[str, str]] = {"death": "visits"}
    own_codes: Collection[tuple[str, str]] = field(default=(), kw_only=True)  # of which a user says what they are

    def knowing(self, codes: Collection[tuple[str, str]]) -> "Omop":
        """Conditions with these codes need no ICD code."""
        return replace(self, own_codes=codes)

    @staticmethod
    def open_file(path: Path) -> CsvFile | ParquetFile:
        """Read the header of one file; vocabularies as Athena hands them out are separated by tabs."""
        vocabulary = any(part.lower().startswith("concept") for part in path.parts[-2:])
        if vocabulary and path.suffix.lower() != ".parquet" and b"\t" in first_line(path):
            return TabFile.open(path)
        return Joined.open_file(path)

    def rows(self, table: str) -> pl.LazyFrame:
        """Table `table` of the hospital stays.
        Raises DataError when no visit is one, no condition has an ICD code, or a concept id is no number."""
        made = {"visits": self._visits, "patients": self._patients, "diagnoses": self._diagnoses}
        made |= {"medications": self._medications, "procedures": self._procedures}
        schema = {**SCHEMAS[table], "subject_id": pl.String(), ODD: pl.UInt32(), SUSPECT: pl.Boolean()}
        return with_missing(made[table](), schema).select(*schema)

    def titles(self) -> pl.DataFrame:
        """The names of the ICD concepts that the data's rows name."""
        frames = [pl.DataFrame(schema=TITLES)]
        for kind, vocabularies in _CODED.items():
            rows = self._named[kind].filter(pl.col("vocabulary").is_in(list(vocabularies)))
            version = pl.col("vocabulary").replace_strict(dict(vocabularies), return_dtype=pl.String)
            frames.append(rows.select(kind=pl.lit(kind), version=version, code="code", title="name"))
        return pl.concat(frames).drop_nulls(["code", "title"])

    @property
    def death_days(self) -> float:
        """Always, if anybody's death is known."""
        return math.inf if self._deaths.height else 0

    def wanted(self, table: str) -> str:
        """Where the rows of `table` are."""
        return "give a visit_occurrence with rows" if table == "visits" else super().wanted(table)

    @cached_property
    def passed_over(self) -> list[dict[str, Any]]:
        """{prefix, events, subjects} of the visits that are no hospital stay, by concept, and of their rows."""
        counts = {"events": pl.len(), "subjects": pl.col("subject_id").n_unique()}
        visits = self.given("visits").filter(~self._inpatient()).group_by("concept").agg(**counts)
        found = visits.sort(["events", "concept"], descending=[True, False]).head(_MOST).collect(engine="streaming")
        names = dict(self._concepts.of(found["concept"].drop_nulls().to_list()).select("id", "name").iter_rows())
        said = [
            {"prefix": f"visit_concept_id {concept} ({names.get(concept) or 'no name'})", "events": n, "subjects": m}
            for concept, n, m in found.iter_rows()
        ]
        for table in _EVENTS if found.height else ():
            rows = self._marked(table).filter("left_out")
            n, m = rows.select(**counts).collect(engine="streaming").row(0)
            if n:
                said.append({"prefix": f"{self.layout.tables[table].file} of these", "events": n, "subjects": m})
        return said

    @property
    def description(self) -> dict[str, Any]:
        """What the cohort's card says of the source: also from where the ICD codes of its rows are."""
        ways = {way: int(self._conditions.filter(pl.col("way") == way)["rows"].sum()) for way in WAYS}
        notes = notes_of(ways, int(self._drugs.filter(pl.col("named").is_null())["rows"].sum()))
        return {**super().description, "codes_by": ways, "notes": notes}

    def beside(self, table: str, index: int) -> dict[str, pl.Expr]:
        """Beside the columns of the layout whether a discharge is a date alone, and a condition's value."""
        found = {name: cell for name, cell in super().beside(table, index).items() if not name.endswith("_time")}
        if table == "visits":
            found[_END_DAY] = self._is_day(table, index, "end")
        if table == "diagnoses":
            found["value"] = self._text(table, index, "code")
        if table == "medications":
            found["drug"] = self._text(table, index, "drug")
        return found

    def column(self, table: str, name: str, place: int) -> str:
        """As the layout names it; of a time its datetime, if that holds something."""
        date, time = super().column(table, name, place), super().column(table, f"{name}_time", place)
        return time if time and (not date or self.in_column(time, place) is not None) else date

    def read_as(self, table: str, index: int) -> Raw:
        """A time from its datetime, else its date; a birth from year, month and day, so far as there are such."""
        raw = super().read_as(table, index)
        raw |= {name: self._time(table, index, name) for name in _TIMES if name in raw}
        if table == "patients":
            raw["birth"] = self._birth(index), pl.String()
        for name in {"diagnoses": ("code",), "medications": ("drug",)}.get(table, ()):
            raw.pop(name, None)  # not the cell but what its concept says
        return raw

    def _used(self, table: str, index: int) -> dict[str, str]:
        used = super()._used(table, index)
        return used | ({"birth": used["anchor_year"]} if table == "patients" else {})

    def _visits(self) -> pl.LazyFrame:
        if not self.given("visits").select(self._inpatient().any()).collect(engine="streaming").item():
            raise self._no_stay()
        people = with_missing(self.given("patients"), _NO_PERSON)
        people = people.select("subject_id", "race", race_text="ethnicity", born="birth", born_on="day")
        rows = self.given("visits").filter(self._inpatient())
        rows = looked_up(looked_up(rows, people.unique("subject_id"), "subject_id"), self._deaths, "subject_id")
        start, end, dead = (pl.col(name) for name in ("start", "end", "death"))
        that_day = pl.col(_END_DAY) & (end.dt.date() == dead.dt.date())
        same_day = pl.col(_END_DAY) & (end < start) & (end.dt.date() == start.dt.date())
        return self._with_name(self._with_name(rows, "concept", "admission_type"), "race", "ethnicity").with_columns(
            ethnicity=pl.coalesce("ethnicity", "race_text"),
            died=((dead <= end) | that_day).fill_null(False),
            newborn=(pl.col("born_on").is_not_null() & (pl.col("born").dt.date() == start.dt.date())).fill_null(False),
            end=pl.when(same_day).then(start).otherwise(end),
            start_bad=unread("visits", "start"),
            end_bad=unread("visits", "end"),
        )

    def _patients(self) -> pl.LazyFrame:
        by_concept = pl.col("gender").replace_strict(_SEXES, default=None, return_dtype=pl.String)
        rows = with_missing(self.given("patients"), {"sex": pl.String(), "month": pl.Int64()})
        return looked_up(rows, self._deaths.rename({"death": "dod"}), "subject_id").with_columns(
            sex=pl.coalesce(by_concept, "sex"), anchor_age=pl.lit(0, pl.Int32)
        )

    def _diagnoses(self) -> pl.LazyFrame:
        if self._conditions.height and (self._conditions["way"] == NONE).all() and not self._is_known():
            vocabularies = self._named["diagnosis"].select("vocabulary", source="id")
            raise no_code(self.files_of("diagnoses"), self._conditions.join(vocabularies, on="source", how="left"))
        rows = with_missing(self._of_stays("diagnoses"), _NO_CONDITION)
        return looked_up(rows, self._conditions.select(*KEY, "code", "version", "title"), *KEY)

    def _is_known(self) -> bool:
        """Whether a user says of any condition's code what it is."""
        codes = self._conditions.select("code", "version").iter_rows() if self.own_codes else ()
        return any((normal(code or ""), version_key(version)) in self.own_codes for code, version in codes)

    def _medications(self) -> pl.LazyFrame:
        rows = with_missing(self._of_stays("medications"), {"drug": pl.String()})
        rows = looked_up(rows, self._drugs.select("concept", "named"), "concept")
        return rows.with_columns(drug=pl.coalesce("named", "drug"))

    def _procedures(self) -> pl.LazyFrame:
        found = self._named["procedure"].filter(pl.col("vocabulary").is_in(list(PROCEDURES)))
        version = pl.col("vocabulary").replace_strict(dict(PROCEDURES), return_dtype=pl.String)
        found = found.select("code", source="id", version=version)
        return looked_up(self._of_stays("procedures"), found, "source")

    def _of_stays(self, table: str) -> pl.LazyFrame:
        """The rows of a table but those of visits that are no hospital stay."""
        return self._marked(table).filter(pl.col("left_out").is_null())

    def _marked(self, table: str) -> pl.LazyFrame:
        """The rows of a table, with `left_out`, true where they belong to a visit that is no hospital stay."""
        return looked_up(self.given(table).with_columns(key=_key()), self._left_out, "key")

    def _inpatient(self) -> pl.Expr:
        return pl.col("concept").is_in(self._inpatient_concepts).fill_null(False)

    @cached_property
    def _inpatient_concepts(self) -> list[int]:
        return sorted(self._concepts.inpatient())

    @cached_property
    def _left_out(self) -> pl.DataFrame:
        """key: hashes of the ids of all visits that are no hospital stay, 8 bytes each; left_out: true."""
        rows = self.given("visits").filter(~self._inpatient() & pl.col("visit_id").is_not_null())
        return rows.select(key=_key(), left_out=pl.lit(True)).unique("key").collect(engine="streaming")

    @cached_property
    def _deaths(self) -> pl.DataFrame:
        """subject_id, death: each patient's first. Raises DataError for one whose time cannot be read."""
        rows = self.given("death").select("subject_id", "death", "place").collect(engine="streaming")
        if (place := rows.filter(pl.col("death").is_null())["place"].min()) is not None:
            what = f"a death without a time that can be read; expected as {values.TIME_WANTED}"
            raise DataError(f"{self.locate('death', int(str(place)))}: {what}; mend that row, or remove it")
        return rows.drop_nulls("subject_id").group_by("subject_id").agg(pl.col("death").min())

    @cached_property
    def _concepts(self) -> Concepts:
        relations = self.given("relationship") if self.indices("relationship") else NO_RELATIONS
        return Concepts(self.given("concept"), relations, self.files_of("concept"))

    @cached_property
    def _conditions(self) -> pl.DataFrame:
        """KEY, rows, code, version, title, way of each distinct kind of condition in a hospital stay."""
        rows = with_missing(self._of_stays("diagnoses"), _NO_CONDITION)
        distinct = rows.group_by(KEY).agg(rows=pl.len()).collect(engine="streaming")
        return chosen(distinct, CodeBook.of(distinct, self._concepts))

    @cached_property
    def _drugs(self) -> pl.DataFrame:
        """concept, rows, named: each concept of the drugs of hospital stays; the name is null where there is none."""
        found = self._of_stays("medications").group_by("concept").agg(rows=pl.len()).collect(engine="streaming")
        names = self._concepts.of({*found["concept"].drop_nulls().to_list()} - {0})
        return found.join(names.select(concept="id", named="name"), on="concept", how="left")

    @cached_property
    def _named(self) -> dict[str, pl.DataFrame]:
        """Kind of code -> the source concepts of the rows: id, name, vocabulary, code."""
        procedures = self.given("procedures").select(pl.col("source").unique()).collect(engine="streaming")
        ids = {"diagnosis": self._conditions["source"], "procedure": procedures["source"]}
        return {kind: self._concepts.of(set(each.drop_nulls().to_list())) for kind, each in ids.items()}

    def _with_name(self, rows: pl.LazyFrame, concept: str, name: str) -> pl.LazyFrame:
        """`rows` with the names of a column of concepts; null where there is none, as for concept 0."""
        rows = with_missing(rows, {concept: pl.Int64()})
        ids = rows.select(pl.col(concept).unique()).collect(engine="streaming").to_series().drop_nulls()
        names = self._concepts.of({*ids.to_list()} - {0}).select(
            pl.col("id").alias(concept), pl.col("name").alias(name)
        )
        return looked_up(rows.drop(name, strict=False), names, concept)

    def _time(self, table: str, index: int, name: str) -> tuple[pl.Expr, pl.DataType]:
        """The datetime where it holds something, else the date."""
        cells = self._time_cells(table, index, name)
        if len(cells) == 1:
            return cells[0]
        if all(dtype.is_temporal() for _, dtype in cells):
            return pl.coalesce(cell.cast(TIME) for cell, _ in cells), TIME
        return pl.coalesce(text(*cell) for cell in cells), pl.String()

    def _is_day(self, table: str, index: int, name: str) -> pl.Expr:
        """Whether a time is a date alone."""
        cells = self._time_cells(table, index, name)
        days = [values.is_day(text(*cell)) if cell[1] == pl.String else pl.lit(cell[1] == pl.Date) for cell in cells]
        return pl.when(text(*cells[0]).is_not_null()).then(days[0]).otherwise(days[-1])

    def _time_cells(self, table: str, index: int, name: str) -> list[tuple[pl.Expr, pl.DataType]]:
        types, used = self.opened[index].columns, self._used(table, index)
        return [(pl.col(used[n]), types[used[n]]) for n in (f"{name}_time", name) if n in used]

    def _text(self, table: str, index: int, name: str) -> pl.Expr:
        column = self._used(table, index).get(name)
        return text(pl.col(column), self.opened[index].columns[column]) if column else pl.lit(None, pl.String)

    def _birth(self, index: int) -> pl.Expr:
        """Year, month and day as text; without a day the first, without a month nothing."""
        types, used = self.opened[index].columns, self._used("patients", index)
        names = {"year": "anchor_year", "month": "month", "day": "day"}
        part = {n: whole(pl.col(c), types[c]) for n, name in names.items() if (c := used.get(name))}
        month, day = (part.get(name, pl.lit(None, pl.Int64)) for name in ("month", "day"))
        return pl.concat_str(part["year"], month, day.fill_null(1), separator="-")

    def _no_stay(self) -> DataError:
        rows = self.given("visits").group_by("concept").len().sort(["len", "concept"], descending=[True, False])
        found = [f"{concept} ({n:,})" for concept, n in rows.head(_MOST).collect(engine="streaming").iter_rows()]
        if not found:
            return DataError(f"{self.folder}: there is no admission in it; {self.wanted('visits')}")
        wanted = ", ".join(map(str, INPATIENT))
        what = f"no visit is a hospital stay: expected visit_concept_id {wanted} or one that is below them"
        return DataError(f"{self.files_of('visits')}: {what}; found {', '.join(found)}; map the visits anew")


_NO_CONDITION: Mapping[str, pl.DataType] = {"source": pl.Int64(), "value": pl.String(), "concept": pl.Int64()}
_NO_PERSON: Mapping[str, pl.DataType] = {"race": pl.Int64(), "ethnicity": pl.String(), "day": pl.Int64()}


def _key() -> pl.Expr:
    return pl.col("visit_id").hash()
