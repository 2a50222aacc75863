"""One partition of the tables -> its next-visit rows: the visits, their labels, the names in their texts.
Splits and treatment clauses come later, since they need all partitions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ckd.ehr import groups, sex, usable
from ckd.ehr.codes import Codes
from ckd.ehr.earlier import before, tellable
from ckd.ehr.frames import frame_files, left_join, made_aside, proved_bytes, save_frame
from ckd.ehr.groups import GROUPS
from ckd.ehr.labeltables import matched
from ckd.ehr.outcomes import History, Outcomes
from ckd.ehr.pairs import Rules, chain
from ckd.ehr.partition import read
from ckd.ehr.text import ordered, sentences
from ckd.store.artifacts import Fields, FolderArtifact
from ckd.store.files import join, write_bytes
from ckd.visits.grammar import names_the_labels
from ckd.visits.labels import DISEASES
from ckd.visits.splits import point
from ckd.visits.visit import SUBGROUP_FIELDS, group_key

NAMED = ("diagnoses", "medications", "procedures")
OLDEST = 90  # years; a greater age is shown as 90, since the sources shift or cap such ages
FACTS_FILE = "facts.json"
_FRAMES = ("visits", "subjects", *NAMED, "codes", "outcomes", "earlier", "told")


@dataclass(frozen=True)
class Meaning:
    """What the words of a source mean: which admissions make pairs, what its codes are, its words for the sex,
    how many earlier visits a text tells, which subgroups there are beside the fixed ones."""

    rules: Rules
    codes: Codes
    sex_words: Mapping[str, str]
    history: int = 0  # earlier visits that a text tells at most
    subgroups: tuple[str, ...] = ()  # names of the elements of GROUPS


@dataclass(frozen=True)
class Assembled:
    """What one partition holds.

    `visits`: one row per pair or last visit, sorted by subject and time: visit (its row number), visit_id, subject_id,
    role, labeled, prediction_time, current and next (bit masks of the 25 diseases), subgroup fields, GROUPS.
    `outcomes`: the labels of another task than ccs25. `diagnoses`, `medications` and `procedures`: (visit, name),
    distinct names in the order of the text.
    """

    visits: pl.DataFrame
    subjects: pl.DataFrame  # subject_id, point, fold, cuts (its values of ingest.split_column), labeled
    diagnoses: pl.DataFrame
    medications: pl.DataFrame
    procedures: pl.DataFrame
    codes: pl.DataFrame  # kind, code, version, rows, place: every distinct code
    facts: dict[str, Any]
    outcomes: pl.DataFrame | None = None  # now and after, Array(Int8): 1, 0, -1 unknown; a row per visit
    earlier: pl.DataFrame | None = None  # visit, stay, days: the earlier stays of each visit, the latest first
    told: pl.DataFrame | None = None  # text: the sentence of each stay

    def save(self, folder: str, fields: Fields) -> None:
        """Write all frames and the facts as a folder artifact."""
        with made_aside(folder) as fresh:
            frames = [name for name in _FRAMES if getattr(self, name) is not None]
            for name in frames:
                save_frame(fresh, name, getattr(self, name))
            write_bytes(join(fresh, FACTS_FILE), json.dumps(self.facts).encode())
            FolderArtifact(fresh, fields).commit([*frame_files(frames), FACTS_FILE])


def load_facts(folder: str) -> dict[str, Any]:
    """Read the facts of an Assembled. Raises ArtifactError when they are not what was written."""
    return dict(json.loads(proved_bytes(folder, FACTS_FILE)))


def assemble(tables: str, index: int, meaning: Meaning, *, seed: int, folds: int) -> Assembled:
    """Read partition `index` below the folder of the tables and make its rows."""
    raw, sexes = _read(tables, index, meaning)
    codes = meaning.codes
    admissions = raw["visits"].with_row_index("admission")
    numbers = admissions.select("visit", "admission")
    judged = {
        "diagnoses": usable.coded(raw["diagnoses"], codes.diagnoses, numbers),
        "medications": usable.drugs(raw["medications"], numbers),
        "procedures": usable.coded(raw["procedures"], codes.procedures, numbers),
    }
    rows = {name: usable.used(frame) for name, frame in judged.items()}
    mapped = rows["diagnoses"].filter("mapped")
    coded = pl.col("admission").is_in(mapped["admission"].unique().implode())
    chained = left_join(
        chain(admissions.with_columns(coded=coded), meaning.rules), admissions.select("place", "admission"), "place"
    )
    visits = _visits(chained, _masks(rows["diagnoses"], chained), raw, meaning.subgroups)
    counts, outcomes = {name: usable.rejected(frame) for name, frame in judged.items()}, None
    if not names_the_labels(codes.task):
        given, counts["given"] = matched(raw["given"], chained, numbers)
        history = History.of(chained, raw, mapped, given, meaning.rules.follow_up_end)
        outcomes = Outcomes.of(codes.task, history)
        visits = visits.with_columns(labeled=outcomes.labeled)
    keys = _keys(chained, visits)
    named = {name: _named(frame, keys, name) for name, frame in rows.items()}
    facts = {
        "admissions": _roles(chained),
        "rows": {name: found for name, found in counts.items() if name != "given" or found["read"]},
        "visits": {role: _summary(visits, named, role) for role in ("pair", "last")},
        "subjects": _returning(admissions),
        "labeled": int(visits["labeled"].sum()),
        "unmapped": _unmapped(rows["diagnoses"]),
        "patients": _met(admissions, raw["patients"]),
        "sex": sexes,
        **({"groups": groups.counted(visits, meaning.subgroups)} if meaning.subgroups else {}),
        **(outcomes.echoes() if outcomes else _echoes(visits)),
    }
    subjects = _subjects(visits, seed, folds)
    frame = outcomes.frame if outcomes else None
    more = _earlier(rows, chained, visits, meaning.history) if meaning.history else {}
    distinct = _distinct_codes(raw)
    return Assembled(visits.drop("cut"), subjects, **named, codes=distinct, facts=facts, outcomes=frame, **more)


def _earlier(
    rows: Mapping[str, pl.DataFrame], chained: pl.DataFrame, visits: pl.DataFrame, most: int
) -> dict[str, pl.DataFrame]:
    """`earlier` and `told` of an Assembled. A stay's sentence is made once, however many texts tell it."""
    stays = tellable(chained)
    keys = _keys(chained, stays.select("visit_id", visit="stay"))
    named = [_named(rows[name], keys, name) for name in NAMED]
    return {"earlier": before(stays, visits, most), "told": sentences(stays.height, *named).to_frame()}


def _unmapped(diagnoses: pl.DataFrame) -> dict[str, int]:
    """Admissions with a diagnosis code, with one that has no CCS category, with none that has one."""
    each = diagnoses.group_by("admission").agg(all=pl.col("mapped").all(), any=pl.col("mapped").any())
    return {"coded": each.height, "some_unmapped": int((~each["all"]).sum()), "none_mapped": int((~each["any"]).sum())}


def _read(tables: str, index: int, meaning: Meaning) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """The tables of a partition with the sex as F or M, and its words as they were counted before."""
    raw = {name: read(tables, name, index) for name in ("visits", "patients", "given", *NAMED)}
    sexes = {name: sex.counted(raw[name], meaning.sex_words) for name in ("visits", "patients")}
    for name in sexes:
        raw[name] = raw[name].with_columns(sex.as_f_or_m("sex", meaning.sex_words))
    return raw, sexes


def _echoes(visits: pl.DataFrame) -> dict[str, int]:
    pairs = visits.filter(pl.col("role") == "pair")
    return {"echoes": pairs.select((pl.col("current") == pl.col("next")).sum()).item()}


def _masks(diagnoses: pl.DataFrame, chained: pl.DataFrame) -> pl.DataFrame:
    """stay_id, mask: the labels that a stay's codes stand for, bit k = label k."""
    labeled = diagnoses.filter(pl.col("mask") > 0).group_by("admission").agg(pl.col("mask").bitwise_or())
    stays = chained.filter(pl.col("stay_id").is_not_null()).select("admission", "stay_id")
    return labeled.join(stays, on="admission").group_by("stay_id").agg(pl.col("mask").bitwise_or())


def _keys(chained: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    """Per admission: the visit that it is part of (null: none), when that began, its number among all in order."""
    return (
        chained.with_row_index("order")
        .join(visits.select("visit", stay_id="visit_id"), on="stay_id", how="left")
        .select("admission", "visit", "order", "start")
        .sort("admission")
    )


def _visits(
    chained: pl.DataFrame, masks: pl.DataFrame, raw: Mapping[str, pl.DataFrame], subgroups: Sequence[str]
) -> pl.DataFrame:
    kept = chained.filter(pl.col("role").is_in(["pair", "last"])).sort("subject_id", "start", "stay_id")
    first = raw["visits"].select("visit_id", "age", "cut", *SUBGROUP_FIELDS[1:], "start", GROUPS)
    person = raw["patients"].unique("subject_id", keep="first", maintain_order=True)
    named = {f"person_{name}": name for name in ("sex", "cut", GROUPS)}
    person = person.select("subject_id", "birth", "anchor_age", "anchor_year", **named)
    rows = kept.select("subject_id", "role", "next_id", "prediction_time", visit_id="stay_id")
    current, following = masks.select(visit_id="stay_id", current="mask"), masks.select(next_id="stay_id", next="mask")
    for other, key in ((first, "visit_id"), (person, "subject_id"), (current, "visit_id"), (following, "next_id")):
        rows = left_join(rows, other, key)
    return rows.select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("visit"),
        "visit_id",
        "subject_id",
        "role",
        pl.col("prediction_time").dt.strftime("%Y-%m-%dT%H:%M:%S"),
        pl.col("current").fill_null(0),
        pl.when(pl.col("role") == "pair").then(pl.col("next").fill_null(0)).alias("next"),
        (pl.col("role") == "pair").alias("labeled"),
        _age().alias("age"),
        pl.coalesce("sex", "person_sex").alias("sex"),
        *SUBGROUP_FIELDS[2:],
        *([groups.of_visits(rows, subgroups)] if subgroups else ()),
        pl.coalesce("cut", "person_cut").alias("cut"),
    )


def _age() -> pl.Expr:
    """Whole years at admission: as stated, from the birth date, or from the anchor year; 90 stands for 90 and more."""
    stated = pl.col("age").cast(pl.Float64, strict=False).floor().cast(pl.Int32)
    lived = ((pl.col("start") - pl.col("birth")).dt.total_days() / 365.2425).floor().cast(pl.Int32)
    anchored = pl.col("anchor_age") + pl.col("start").dt.year() - pl.col("anchor_year")
    age = pl.coalesce(stated, lived, anchored)
    return pl.when(age >= 0).then(age.clip(upper_bound=OLDEST)).cast(pl.String)


def _named(rows: pl.DataFrame, keys: pl.DataFrame, table: str) -> pl.DataFrame:
    """Distinct names per visit: drugs by first use, codes by sequence number, an earlier admission's of a stay first.
    Rows that are equal in that, or lack it, stay in the source's order."""
    at = rows["admission"]
    rows = rows.with_columns(visit=keys["visit"].gather(at)).drop_nulls(["visit", "name"])
    at = rows["admission"]
    if table == "medications":
        first, then = pl.col("visit"), (pl.col("start") - pl.lit(keys["start"].gather(at))).dt.total_seconds()
    else:
        first, then = pl.lit(keys["order"].gather(at)), pl.col("seq").cast(pl.Int64)
    # One integer sorts several times faster than two columns; both halves have 32 bits, which hold 68 years in seconds.
    within = then.clip(-(2**31), 2**31 - 2).fill_null(2**31 - 1)
    return ordered(rows.select("visit", "name", key=first.cast(pl.Int64) * 2**32 + within))


def _subjects(visits: pl.DataFrame, seed: int, folds: int) -> pl.DataFrame:
    found = visits.group_by("subject_id", maintain_order=True).agg(
        cuts=pl.col("cut").drop_nulls().unique().sort(), labeled=pl.col("labeled").any()
    )
    groups = [group_key(subject, "") for subject in found["subject_id"]]
    return found.with_columns(
        point=pl.Series([point(group, seed) for group in groups], dtype=pl.Float64),
        # A group is a hash already, and another one than the point's.
        fold=(pl.Series(groups, dtype=pl.UInt64) % folds).cast(pl.UInt8),
    )


def _distinct_codes(raw: dict[str, pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(
        raw[table]
        .filter(pl.col("code").is_not_null())
        .group_by("code", "version")
        .agg(rows=pl.len().cast(pl.UInt32), place=pl.col("place").min())
        .select(pl.lit(kind).alias("kind"), pl.col("code", "version").cast(pl.String), "rows", "place")
        .filter(pl.col("code").str.strip_chars() != "")
        for table, kind in (("diagnoses", "diagnosis"), ("procedures", "procedure"))
    )


def _roles(chained: pl.DataFrame) -> dict[str, Any]:
    """Admissions by what became of them: pairs, last visits, and per reason of exclusion the number and first place."""
    kept = {role: chained.filter(pl.col("role") == role).height for role in ("pair", "last")}
    return {"in": chained.height, **kept, "excluded": usable.by_reason(chained)}


def _returning(admissions: pl.DataFrame) -> dict[str, int]:
    """Patients, those with two admissions or more, and the consecutive pairs before any rule leaves one out."""
    each = admissions.filter(pl.col("subject_id").is_not_null()).group_by("subject_id").len()["len"]
    return {"all": each.len(), "with_two": int((each > 1).sum()), "consecutive_pairs": int(each.sum()) - each.len()}


def _met(admissions: pl.DataFrame, patients: pl.DataFrame) -> dict[str, Any]:
    """Rows of the table of patients, those that an admission names, and the admissions whose patient is not in it."""
    there, named = patients["subject_id"], admissions["subject_id"]
    without = admissions.filter(~named.is_in(there.implode()))
    missing = {"rows": without.height, "place": without["place"].min()} if without.height else None
    found = {"read": patients.height, "met": int(there.is_in(named.implode()).sum())}
    return found | ({"missing": missing} if missing else {})


def _summary(visits: pl.DataFrame, named: dict[str, pl.DataFrame], role: str) -> dict[str, Any]:
    """Sums over the visits of one role: what the card compares between patients who return and those who do not."""
    rows = visits.filter(pl.col("role") == role)
    age = rows["age"].cast(pl.Int32)
    positives = rows.select((pl.col("current") & (1 << k) > 0).sum().alias(name) for k, name in enumerate(DISEASES))
    mine = visits["role"] == role
    return {
        "visits": rows.height,
        **{f"{name}_known": rows.height - rows[name].null_count() for name in SUBGROUP_FIELDS},
        "age_sum": int(age.sum()),
        "women": int((rows["sex"] == "F").sum()),
        "labels": positives.row(0, named=True),
        **{table: int(mine.gather(frame["visit"]).sum()) for table, frame in named.items()},
    }
