"""The kind of source that has events: MEDS shards as the canonical tables, by the prefixes of their codes.
A stay is made of its admission, discharge and death events; what an event has no visit id for is found by its time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from ckd.ehr import labeltables, meds_metadata
from ckd.ehr.canonical import CELLS, ODD, PLACE_BITS, SCHEMAS, SUSPECT, TIME, with_missing
from ckd.ehr.cells import unread
from ckd.ehr.groups import GROUPS, require_columns
from ckd.ehr.layouts import missing_column
from ckd.ehr.meds_metadata import CODED, CODES_FILE, SPLITS_FILE
from ckd.ehr.parquetfile import ParquetFile
from ckd.ehr.shards import event_shards
from ckd.ehr.source import Source
from ckd.ehr.stay_times import with_their_stay
from ckd.ehr.usable import NO_CODE
from ckd.ehr.vocabulary import Vocabulary, group_kind, known
from ckd.errors import ConfigError, DataError
from ckd.ingest_config import IngestConfig
from ckd.visits.subgroups import KEY, require_free
from ckd.visits.task import Task

_NEEDED, _VISIT_IDS = ("subject_id", "time", "code"), ("hadm_id", "visit_id")
_DIED = ("DIED", "EXPIRED", "DEAD")
_NOT_GIVEN = r"(?i)\bnot\b|\bhold dose\b"  # "Not Given", "Delayed Not Confirmed", …: the patient did not get the drug
_PREFIX, _MOST = r"^[A-Za-z][\w .:-]{0,40}/{0,2}$", 20
_NO_CODE, _OTHER = "(no code)", "(not like a prefix)"
_LONG_AGO = pl.datetime(1, 1, 1, time_unit="us")  # what holds of a subject at any time


@dataclass(frozen=True)
class Meds(Source):
    """A MEDS data set. `split_column` is a column of the admission events."""

    vocabulary: Vocabulary

    @classmethod
    def open(cls, kind: str, folder: str, split_column: str, vocabulary: Vocabulary) -> "Meds":
        """Find the shards and read their schemas. Raises DataError as `event_shards` does, and for one that lacks a
        column, above all a visit id."""
        source = cls(kind, folder, split_column, tuple(map(ParquetFile.open, event_shards(folder))), vocabulary)
        for index in source.indices("visits"):
            source._require_columns(index)
        return source

    def indices(self, table: str) -> Sequence[int]:
        """All shards: any of them may have events of a table."""
        events = len(self.opened) - len(self.given_labels)  # the label tables are the last files
        return range(events, len(self.opened)) if table == "given" else range(events)

    def with_given(self, task: Task, paths: Sequence[str]) -> "Meds":
        """Labels are tables beside the data set."""
        found = labeltables.label_tables(task, paths)
        labels = tuple((number, task.labels[number].given) for number in found)
        return replace(self, opened=(*self.opened, *found.values()), given_labels=labels)

    def given_rows(self) -> pl.LazyFrame:
        """The rows of the label tables."""
        frames = [super().given_rows()]
        columns = {"subject_id": "subject_id", "start": "prediction_time"}
        for index, (label, _) in zip(self.indices("given"), self.given_labels, strict=True):
            raw = self.raw({**columns, "value": "boolean_value"}, index).with_columns(pl.col("value").cast(pl.Int8))
            rows = self.cells("given", columns, index).rows(raw, "value", "place")
            rows = with_missing(rows.with_columns(label=pl.lit(label, pl.UInt16)), SCHEMAS["given"])
            frames.append(rows.with_columns(pl.lit(False).alias(SUSPECT)).select(*SCHEMAS["given"], SUSPECT, ODD))
        return pl.concat(frames)

    def with_subgroups(self, names: Sequence[str]) -> "Meds":
        """Subgroups are columns of the admission events, or prefixes of codes, which are read as the insurance is."""
        require_free(names)
        known = self._columns_of("visits")
        columns = [name for name in names if name.lower() in known["visits"]]
        taken = {**dict.fromkeys(_NEEDED, "id, time or code"), **dict.fromkeys((*_VISIT_IDS, "end"), "id or time")}
        require_columns([name.lower() for name in columns], known, taken, self.folder)
        prefixes = [name for name in names if name not in columns]
        vocabulary = self.vocabulary.with_groups(prefixes)
        for prefix in prefixes:
            if not self._codes().select(vocabulary.of_kind(group_kind(prefix)).any()).collect().item():
                found = ", ".join(e["prefix"] for e in self.passed_over) or "no other"
                what = f"is no column of the shards ({', '.join(sorted(known['visits']))}), and no code begins so"
                raise ConfigError(f"{KEY}: '{prefix}' {what}; codes that are not read: {found}")
        return replace(self, vocabulary=vocabulary, subgroups=tuple(name.lower() for name in names))

    def usual_license(self) -> str:
        """What metadata/dataset.json states."""
        return meds_metadata.license_of(self.folder)

    def rows(self, table: str) -> pl.LazyFrame:
        """The events that make rows of `table`."""
        if table in CODED:
            version, code = self.vocabulary.coded(CODED[table])
            rows = self._events(table, CODED[table]).with_columns(version=version, code=code)
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
        return meds_metadata.titles(self.folder, self.vocabulary)

    def with_its_splits(self, config: IngestConfig) -> IngestConfig:
        """`config` with the data set's own splits, unless a column is named."""
        if self._splits is None:
            return config
        there = [split for split in ("tuning", "held_out") if split in set(self._splits["split"])]
        shares = {"tuning_share": 0.0, "held_out_share": 0.0, "split_column": SPLITS_FILE}
        return config.model_copy(update={**shares, **{f"{split}_values": (split,) for split in there}})

    @property
    def others(self) -> list[Path]:
        """Files beside the shards that change the cohort."""
        named = [CODES_FILE, *([] if self._splits is None else [SPLITS_FILE])]
        return [path for name in named if (path := Path(self.folder, name)).is_file()]

    @property
    def settings(self) -> str:
        """The prefixes of a user's own table, which change the cohort."""
        return "" if self.vocabulary == Vocabulary.of() else repr(self.vocabulary.rules)

    def wanted(self, table: str) -> str:
        """The prefixes of the events that make rows of `table`, and those that the data set has beside what is read."""
        kind = {**CODED, "medications": "medication", "visits": "admission"}.get(table, "")
        found = ", ".join(f"{e['prefix']} ({e['events']:,})" for e in self.passed_over[:10]) or "no other"
        codes = f"expected codes that begin with {', '.join(self.vocabulary.prefixes(kind))}; found {found}"
        return f"{codes}; name them in ingest.meds_codes=FILE (docs/tables.md)"

    @property
    def remedies(self) -> Mapping[str, str]:
        """A code without its version is none."""
        what = "expected DIAGNOSIS//ICD//<version>//<code>, or a prefix with its version in ingest.meds_codes=FILE"
        return {NO_CODE: what}

    @cached_property
    def passed_over(self) -> list[dict[str, Any]]:
        """{prefix, events, subjects} of the codes that are not read, up to their first slash; the most frequent first.
        A code may hold anything: what does not look like a prefix is counted together. Costs a scan of the codes."""
        rest = self._codes().filter(~self.vocabulary.of_kind(*self.vocabulary.kinds))
        prefix = pl.col("event").str.extract(r"^([^/]*/{0,2})")
        like_one = pl.when(prefix.str.contains(_PREFIX)).then(prefix).otherwise(pl.lit(_OTHER))
        prefix = pl.when(pl.col("event").is_null()).then(pl.lit(_NO_CODE)).otherwise(like_one)
        counts = {"events": pl.len(), "subjects": pl.col("subject_id").n_unique()}
        found = rest.group_by(prefix=prefix).agg(**counts).sort(["events", "prefix"], descending=[True, False])
        return found.head(_MOST).collect().to_dicts()

    def _codes(self) -> pl.LazyFrame:
        """event, and a hash of subject_id, of every row."""
        codes = (self.raw({"event": "code", "subject_id": "subject_id"}, index) for index in self.indices("visits"))
        return pl.concat(rows.select(pl.col("event").cast(pl.String), pl.col("subject_id").hash()) for rows in codes)

    @cached_property
    def _splits(self) -> pl.DataFrame | None:
        return None if self.split_column else meds_metadata.splits(self.folder)

    def _events(self, table: str, *kinds: str, time: str = "start") -> pl.LazyFrame:
        """The events of all shards that are read as one of `kinds`: the cells that `table` has, the time as column
        `time`, `event` (the code as it is) and `place`."""
        return pl.concat([self._of_shard(index, table, kinds, time) for index in self.indices(table)])

    def _of_shard(self, index: int, table: str, kinds: Sequence[str], time: str) -> pl.LazyFrame:
        used = {name: column for name, column in self._columns(index, time).items() if name in CELLS[table]}
        more = self.groups_of(table, index) if "admission" in kinds else {}
        raw = self.raw({**used, "event": "code"}, index, **more).with_columns(pl.col("event").cast(pl.String))
        cells = self.cells(table, used, index)
        rows = cells.rows(raw.filter(self.vocabulary.of_kind(*kinds)), "event", "place", *more)
        names, times = ("visit_id", "subject_id", "ethnicity", "insurance", "cut"), [time]
        if table == "visits" and time == "start":
            times.append("end")
        if table in CODED:
            times = []
        wanted = {**dict.fromkeys(names, pl.String()), **dict.fromkeys(times, TIME)}
        return with_missing(rows, wanted).select(*wanted, "event", "place", *more, ODD)

    def _columns(self, index: int, time: str) -> dict[str, str]:
        """Canonical column -> column of a shard."""
        there = self.opened[index].columns
        wanted = {"subject_id": "subject_id", time: "time", "insurance": "insurance", "ethnicity": "race"}
        if time == "start":
            wanted["end"] = "end"  # of an admission event that has its own
        wanted |= {"visit_id": next(name for name in _VISIT_IDS if name in there), "cut": self.split_column}
        return {name: column for name, column in wanted.items() if column in there}

    def _medications(self) -> pl.LazyFrame:
        """Orders and administrations, unless nothing was given; those without a visit id get that of their stay."""
        drug, event = self.vocabulary.parts("medication")
        rows = self._events("medications", "medication").with_columns(drug=known(drug), given=event)
        rows = rows.filter(~pl.col("given").fill_null("").str.contains(_NOT_GIVEN))
        return rows.map_batches(lambda batch: with_their_stay(batch, lambda: self._stays), streamable=True)

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
        if self._splits is not None:
            splits = self._splits.rename({"split": "cut"}).lazy()
            stays = stays.drop("cut").join(splits, on="subject_id", how="left")
        for name, kind in (("ethnicity", "race"), ("insurance", "insurance")):
            stays = self._said(stays, name, kind)
        stays = self._grouped(stays)
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
        ends = discharges.agg(discharged=pl.col("end").max(), discharged_dead=died)
        stays = admissions.join(ends, on=["subject_id", "visit_id"], how="left")
        return stays.with_columns(end=pl.coalesce("discharged", "end")).drop("discharged")

    def _grouped(self, stays: pl.LazyFrame) -> pl.LazyFrame:
        """`stays` with GROUPS: columns of the admission event, or what the events of a prefix say."""
        cells = [f"{GROUPS}{place}" for place in range(len(self.subgroups))]
        for place, (cell, name) in enumerate(zip(cells, self.subgroups, strict=True)):
            stays = stays.with_columns(pl.col(GROUPS).list.get(place).alias(cell))
            if self.vocabulary.prefixes(group_kind(name)):
                stays = self._said(stays, cell, group_kind(name))
        return stays.with_columns(pl.concat_list(cells).alias(GROUPS)).drop(cells) if cells else stays

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
