"""The kind of source that has events: MEDS shards as the canonical tables, by the prefixes of their codes.
A stay is made of its admission, discharge and death events; what an event has no visit id for is found by its time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from ckd.ehr.canonical import (
    BY_TIME,
    CELLS,
    ODD,
    PLACE_BITS,
    SCHEMAS,
    SEVERAL,
    SUSPECT,
    TITLES,
    UNREADABLE,
    with_missing,
)
from ckd.ehr.cells import unread
from ckd.ehr.layouts import NOT_STATED, missing_column
from ckd.ehr.parquetfile import ParquetFile
from ckd.ehr.source import Source
from ckd.ehr.vocabulary import Vocabulary, known
from ckd.errors import DataError
from ckd.visits.datafolder import entries, is_part, reason_to_refuse, table_mark

_CODED = {"diagnoses": "diagnosis", "procedures": "procedure"}  # table -> what its events are read as
_NEEDED, _VISIT_IDS = ("subject_id", "time", "code"), ("hadm_id", "visit_id")
_DIED = ("DIED", "EXPIRED", "DEAD")
_NOT_GIVEN = r"(?i)\bnot\b|\bhold dose\b"  # "Not Given", "Delayed Not Confirmed", …: the patient did not get the drug
_LONG_AGO = pl.datetime(1, 1, 1, time_unit="us")  # what holds of a subject at any time


@dataclass(frozen=True)
class Meds(Source):
    """A MEDS data set. `split_column` is a column of the admission events."""

    vocabulary: Vocabulary

    @classmethod
    def open(cls, kind: str, folder: str, split_column: str, vocabulary: Vocabulary) -> "Meds":
        """Find data/**/*.parquet, or all below `folder` if it has no folder data, and read the schemas.
        Raises DataError when there is no shard, one lacks a column, above all a visit id, or more may hold events."""
        base = Path(folder, "data") if Path(folder, "data").is_dir() else Path(folder)
        found = dict(_below(base, frozenset()))
        shards = sorted(path for path, why in found.items() if not why)
        if not shards:
            raise DataError(f"{base}: no *.parquet file; expected the event shards of a MEDS data set below data/")
        for path, why in sorted(found.items()):
            if why:
                raise DataError(f"{path}: {why}")
        source = cls(kind, folder, split_column, tuple(map(ParquetFile.open, shards)), vocabulary)
        for index in source.indices("visits"):
            source._require_columns(index)
        return source

    def indices(self, table: str) -> Sequence[int]:
        """All shards: any of them may have events of a table."""
        return range(len(self.opened))

    def usual_license(self) -> str:
        """What metadata/dataset.json states."""
        try:
            content = json.loads(Path(self.folder, "metadata", "dataset.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return NOT_STATED
        stated = content.get("license") if isinstance(content, dict) else None
        return stated if isinstance(stated, str) and stated else NOT_STATED

    def rows(self, table: str) -> pl.LazyFrame:
        """The events that make rows of `table`."""
        if table in _CODED:
            version, code = self.vocabulary.coded(_CODED[table])
            rows = self._events(table, _CODED[table]).with_columns(version=version, code=code)
        else:
            rows = {"medications": self._medications, "patients": self._patients, "visits": self._visits}[table]()
        schema = {**SCHEMAS[table], "subject_id": pl.String(), ODD: pl.UInt32()}
        return with_missing(rows, schema).select(*schema, pl.lit(False).alias(SUSPECT))

    def column(self, table: str, name: str, place: int) -> str:
        """Of the shard; codes are taken apart."""
        time = name if name in ("start", "end", "birth", "death") else "start"
        return self._columns(place >> PLACE_BITS, time).get(name, "")

    def titles(self) -> pl.DataFrame:
        """The descriptions in metadata/codes.parquet."""
        path = Path(self.folder, "metadata", "codes.parquet")
        if not path.exists() and not path.is_symlink():
            return pl.DataFrame(schema=TITLES)
        try:
            return self._described(path)
        except UNREADABLE as error:
            what = f"cannot be read ({type(error).__name__})"
            raise DataError(f"{path}: {what}; get the file again, or remove it: it only gives codes titles") from None

    def _described(self, path: Path) -> pl.DataFrame:
        frames, rows = [pl.DataFrame(schema=TITLES)], pl.scan_parquet(path, glob=False)
        if rows.collect_schema().get("description") == pl.String:
            rows = rows.filter(pl.col("description").str.len_bytes() > 0).with_columns(
                event=pl.col("code").cast(pl.String)
            )
            for kind in _CODED.values():
                version, code = self.vocabulary.coded(kind)
                columns = {"kind": pl.lit(kind), "version": version, "code": code, "title": pl.col("description")}
                frames.append(rows.filter(self.vocabulary.of_kind(kind)).select(**columns).collect())
        return pl.concat(frames)

    def _events(self, table: str, *kinds: str, time: str = "start") -> pl.LazyFrame:
        """The events of all shards that are read as one of `kinds`: the cells that `table` has, the time as column
        `time`, `event` (the code as it is) and `place`."""
        return pl.concat([self._of_shard(index, table, kinds, time) for index in self.indices(table)])

    def _of_shard(self, index: int, table: str, kinds: Sequence[str], time: str) -> pl.LazyFrame:
        used = {name: column for name, column in self._columns(index, time).items() if name in CELLS[table]}
        raw = self.raw({**used, "event": "code"}, index).with_columns(pl.col("event").cast(pl.String))
        cells = self.cells(table, used, index)
        rows = cells.rows(raw.filter(self.vocabulary.of_kind(*kinds)), "event", "place")
        return with_missing(rows, dict.fromkeys(("visit_id", "ethnicity", "insurance", "cut"), pl.String())).select(
            *("visit_id", "subject_id", "ethnicity", "insurance", "cut", "event", "place", ODD), *cells.times
        )

    def _columns(self, index: int, time: str) -> dict[str, str]:
        """Canonical column -> column of a shard."""
        there = self.opened[index].columns
        wanted = {"subject_id": "subject_id", time: "time", "insurance": "insurance", "ethnicity": "race"}
        wanted |= {"visit_id": next(name for name in _VISIT_IDS if name in there), "cut": self.split_column}
        return {name: column for name, column in wanted.items() if column in there}

    def _medications(self) -> pl.LazyFrame:
        """Orders and administrations, unless nothing was given; those without a visit id get that of their stay."""
        drug, event = self.vocabulary.parts("medication")
        rows = self._events("medications", "medication").with_columns(drug=known(drug), given=event)
        rows = rows.filter(~pl.col("given").fill_null("").str.contains(_NOT_GIVEN))
        return rows.map_batches(self._with_their_stay, streamable=True)

    def _with_their_stay(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Orders without a visit id belong to the one stay of their subject that contains their time."""
        nowhere = rows.filter(pl.col("visit_id").is_null() & pl.col("start").is_not_null())
        if nowhere.is_empty():
            return rows
        inside = nowhere.select("place", "subject_id", "start").join(self._stays, on="subject_id")
        inside = inside.filter(pl.col("start").is_between("began", "ended"))
        found = inside.group_by("place").agg(stay=pl.col("stay").first(), stays=pl.len())
        rows = rows.join(found, on="place", how="left", maintain_order="left")
        one, several = pl.col("stays") == 1, pl.col("stays") > 1
        bits = {BY_TIME: one, SEVERAL: several}
        note = [
            pl.when(when).then(pl.lit(1 << CELLS["medications"].index(name), pl.UInt32)).otherwise(0)
            for name, when in bits.items()
        ]
        rows = rows.with_columns(
            pl.col(ODD) | note[0] | note[1], visit_id=pl.coalesce("visit_id", pl.when(one).then("stay"))
        )
        return rows.drop("stay", "stays")

    @cached_property
    def _stays(self) -> pl.DataFrame:
        """subject_id, stay, began, ended of every admission that ended: about 60 bytes each."""
        stays = self._stays_of(self._events("visits", "admission")).select("subject_id", "visit_id", "start", "end")
        return stays.rename({"visit_id": "stay", "start": "began", "end": "ended"}).drop_nulls().collect()

    def _patients(self) -> pl.LazyFrame:
        born, sexed = self.vocabulary.of_kind("birth"), self.vocabulary.of_kind("sex")
        rows = self._events("patients", "sex", "birth", time="birth")
        rows = rows.with_columns(
            sex=pl.when(sexed).then(self.vocabulary.part("sex")), birth=pl.when(born).then("birth")
        )
        first = [pl.col(name).min() for name in ("sex", "birth", "place")]
        return rows.group_by("subject_id").agg(*first, pl.col(ODD).bitwise_or())

    def _visits(self) -> pl.LazyFrame:
        """One row per admission event, with the latest discharge of its visit, the subject's death, and what is said of
        the visit, else of the subject at that time."""
        stays = self._stays_of(self._events("visits", "admission"))
        for name, kind in (("ethnicity", "race"), ("insurance", "insurance")):
            stays = self._said(stays, name, kind)
        deaths = self._events("visits", "death", time="death")
        deaths = deaths.group_by("subject_id").agg(pl.col("death").min())
        return stays.join(deaths, on="subject_id", how="left").with_columns(
            dod=pl.col("death"),
            # A death with a date only is at midnight of its day.
            died=(pl.col("discharged_dead") | (pl.col("death") <= pl.col("end"))).fill_null(False),
            newborn=(pl.col("admission_type").str.to_uppercase() == "NEWBORN").fill_null(False),
            start_bad=unread("visits", "start"),
            end_bad=pl.lit(False),
        )

    def _stays_of(self, admissions: pl.LazyFrame) -> pl.LazyFrame:
        admissions = admissions.with_columns(admission_type=self.vocabulary.part("admission"))
        died = self.vocabulary.part("discharge").str.to_uppercase().is_in(_DIED).fill_null(False).any()
        discharges = self._events("visits", "discharge", time="end").group_by("subject_id", "visit_id")
        ends = discharges.agg(pl.col("end").max(), discharged_dead=died)
        return admissions.join(ends, on=["subject_id", "visit_id"], how="left")

    def _said(self, stays: pl.LazyFrame, name: str, kind: str) -> pl.LazyFrame:
        """`stays` with column `name`: of the admission event, else of the visit's first event of `kind`, else of the
        subject's latest one without a visit at or before the admission."""
        said = self._events("visits", kind).with_columns(said=self.vocabulary.part(kind)).drop_nulls("said")
        by_visit = said.filter(pl.col("visit_id").is_not_null()).group_by("subject_id", "visit_id")
        of_visit = by_visit.agg(of_visit=pl.col("said").sort_by("place").first())
        of_subject = said.filter(pl.col("visit_id").is_null())
        of_subject = of_subject.select(
            "subject_id", "place", of_subject="said", start=pl.col("start").fill_null(_LONG_AGO)
        )
        stays = stays.join(of_visit, on=["subject_id", "visit_id"], how="left").sort("start")
        stays = stays.join_asof(
            of_subject.sort("start", "place").drop("place"),
            on="start",
            by="subject_id",
            strategy="backward",
            check_sortedness=False,
        )
        return stays.with_columns(pl.coalesce(name, "of_visit", "of_subject").alias(name)).drop(
            "of_visit", "of_subject"
        )

    def _require_columns(self, index: int) -> None:
        path, columns = self.opened[index].path, self.opened[index].columns
        for name in _NEEDED:
            if name not in columns:
                raise missing_column(path, name, columns, _NEEDED)
        if not any(name in columns for name in _VISIT_IDS):
            raise DataError(
                f"{path}: no column 'hadm_id' or 'visit_id' among {', '.join(columns)}; without a visit id nobody can "
                "tell which codes belong to which visit, nor the next visit: make the shards with an ETL that keeps it"
            )
        self.cells("visits", self._columns(index, "start"), index)  # raises DataError for a type that will not do


def _below(folder: Path, above: frozenset[Path]) -> Iterator[tuple[Path, str]]:
    """Every shard below a folder, and what may be one, with the reason why it is not read. Links are followed."""
    found = entries(str(folder))
    for name, size in found.items():
        path = folder / name
        if mark := table_mark(str(folder), name, found):
            yield path, mark
        elif is_part(name, size):
            yield path, ""
        elif size is not None or name[0] in "._":
            if why := reason_to_refuse(name, size):
                yield path, why
        elif name != "metadata" and (there := path.resolve()) not in above:
            yield from _below(path, above | {there})
