"""The visits of any input as shards below an output folder, to be predicted. They need no split and no label.

What cannot be read is quarantined and counted as in prepare. The shards' texts are a working copy: `forget` removes it,
the counts stay.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

from ckd.config import DataConfig
from ckd.errors import ArtifactError
from ckd.store.artifacts import Fields, Stage, require_equal
from ckd.visits.cohort import STAGE, Cohort, cohort_artifact, commit, quarantine_file
from ckd.visits.inputs import Input
from ckd.visits.intake import Counts, Intake
from ckd.visits.labels import CCS25
from ckd.visits.visit import Visit

ARRIVALS_VERSION = 1  # raise it when the same input gives other rows, ids or shards


def receive(root: str, source: Input, data: DataConfig) -> Cohort:
    """Open the shards of an input, or make them unless they are below `root` already. Memory: 8 bytes per visit.

    Raises DataError when more than data.max_bad_rows rows cannot be used, MismatchError when other input lies there.
    """
    fields = _fields(source, data)
    if not cohort_artifact(root, fields).is_done():
        store(root, source, data, fields)
    cohort = Cohort.open(root)
    counted(cohort).require_at_most(data.max_bad_rows, quarantine_file(root))
    return cohort


def restore(root: str, source: Input, data: DataConfig, cohort: Cohort) -> None:
    """Make the working copy of the texts again unless all of it is there."""
    if not cohort.is_whole():
        store(root, source, data, (cohort_artifact(root, {}).load() or {})["fields"])


def store(root: str, source: Input, data: DataConfig, fields: Fields) -> None:
    """Read the input, write its shards, then the list of them. Raises MismatchError, ArtifactError at others' parts."""
    stage = Stage(root, STAGE, fields)
    for index in stage.indices():
        footer = stage.footer(index)
        if footer is not None:
            require_equal(stage.path(index), footer.fields, fields)
    facts: dict[str, Any] = {}
    with tempfile.TemporaryFile() as quarantine:
        visits = _visits(root, source, data, facts, quarantine)
        commit(root, visits, fields=fields, shard_rows=data.shard_rows, facts=facts, task=source.task)


def forget(root: str) -> None:
    """Remove the working copy of the texts, also one that a killed command left. Others' parts stay."""
    stage = Stage(root, STAGE, {})
    for index in stage.indices():
        with suppress(ArtifactError):
            footer = stage.footer(index)
            if footer is not None and "arrivals_version" in footer.fields:
                stage.delete(index)


def counted(cohort: Cohort) -> Counts:
    """Count what was read when the shards were made."""
    found = cohort.facts["counts"]
    return Counts(**{**found, "reasons": Counter(found["reasons"]), "unread": Counter(found.get("unread", {}))})


def _fields(source: Input, data: DataConfig) -> Fields:
    task = {} if source.task.fingerprint == CCS25.fingerprint else {"task.labels": source.task.fingerprint}
    fields: Fields = {"input": source.content_hash(), "data.shard_rows": data.shard_rows, **task}
    return {**fields, "arrivals_version": ARRIVALS_VERSION}


def _visits(root: str, source: Input, data: DataConfig, facts: dict[str, Any], quarantine: BinaryIO) -> Iterator[Visit]:
    intake = Intake([source], quarantine)
    for visit, _ in intake:
        if intake.counts.quarantined <= data.max_bad_rows:  # beyond it the run stops: the rest is counted, not stored
            yield replace(visit, split=visit.split or "held_out")  # a shard has one; nothing here depends on which
    facts["counts"] = vars(intake.settle(data.max_bad_rows, quarantine_file(root)))
