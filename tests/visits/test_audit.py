"""verify and status: what is missing, damaged, doubled or out of range is found and named."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.configfile import load
from ckd.errors import ArtifactError, CkdError, IncompleteError
from ckd.store import artifacts
from ckd.store.artifacts import Stage
from ckd.visits import cohort as cohorts
from ckd.visits.audit import audit_ids, audit_stage, audit_strays, audit_values
from jobs import stages, verify
from jobs.console import Console
from jobs.status import plan, run
from tests.teacher.embedded import embedded, visits

ROWS = ["train"] * 40 + ["tuning"] * 10 + ["held_out"] * 10

STEPS = {step.name: step for step in stages.STEPS}


def audited(cohort, name):
    return audit_stage(cohort.root, name, list(cohort.shards), STEPS[name].input_hash)


def values_of(cohort, audit):
    return audit_values(cohort, audit, STEPS[audit.name].proves)


def soft_labels(cohort, change=lambda values: values):
    stage = Stage(cohort.root, "soft_labels", {"head": "h"})
    for shard in cohort.shards:
        values = change(np.full((shard.rows, 25), 0.5, np.float32))
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 25)
        ids = cohort.read(shard, ["visit_id"])["visit_id"]
        stage.write(
            shard.index,
            pa.table({"visit_id": ids, "probabilities": column}),
            rows=shard.rows,
            input_hash=shard.text_hash,
        )
    return stage


def test_missing_shards_are_listed_and_whole_ones_pass(tmp_path):
    _, cohort, stage = embedded(tmp_path, visits(ROWS))
    stage.delete(1)
    audit = audited(cohort, "embeddings")
    assert audit.missing == [1]
    assert audit.damaged == {}
    assert list(values_of(cohort, audit)) == []
    assert list(audit_ids(cohort)) == []


@pytest.mark.parametrize(
    ("poison", "problem"), [(np.nan, "outside 0..1"), (1.5, "outside 0..1"), (-0.1, "outside 0..1")]
)
def test_values_out_of_range_are_found(tmp_path, poison, problem):
    _, cohort, _ = embedded(tmp_path, visits(ROWS))

    def change(values):
        values[0, 3] = poison
        return values

    soft_labels(cohort, change)
    found = list(values_of(cohort, audited(cohort, "soft_labels")))
    assert len(found) == len(cohort.shards)
    assert all(f"probabilities has 1 values {problem}" in line for line in found)


def test_swapped_ids_and_foreign_parts_are_found(tmp_path):
    _, cohort, stage = embedded(tmp_path, visits(ROWS))
    first, second, third = cohort.shards[:3]
    stage.write(
        first.index,
        stage.read(first.index).take(list(range(first.rows))[::-1]),
        rows=first.rows,
        input_hash=first.text_hash,
    )
    stage.write(second.index, stage.read(second.index), rows=second.rows, input_hash="of other visits")
    Stage(cohort.root, "embeddings", {"model": "other"}).write(
        third.index, stage.read(third.index), rows=third.rows, input_hash=third.text_hash
    )
    audit = audited(cohort, "embeddings")
    assert list(audit.damaged) == [second.index, -1]
    assert "different fingerprints" in audit.damaged[-1]
    assert ["not those of its visits shard" in line for line in values_of(cohort, audit)] == [True]


def test_parts_and_files_that_no_shard_owns_are_found_and_those_not_wanted_now_are_fine(tmp_path):
    _, cohort, stage = embedded(tmp_path, visits(ROWS))
    first = cohort.shards[0]
    assert (
        list(audit_strays(cohort, "embeddings"))
        == list(audit_strays(cohort, "visits"))
        == list(audit_strays(cohort, "tokens"))
        == []
    )
    stage.write(len(cohort.shards), stage.read(first.index), rows=first.rows, input_hash=first.text_hash)
    (tmp_path / "t/artifacts/embeddings/copy.parquet").write_bytes(b"")
    found = list(audit_strays(cohort, "embeddings"))
    assert [
        "copy.parquet: belongs to no shard" in found[0],
        f"part-{len(cohort.shards):05d}.parquet: belongs" in found[1],
    ] == [True, True]
    assert len(found) == 2


def changed(table, column, value):
    at = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    return table.set_column(at, table.schema.field(at), pa.array([value, *values[1:]], table.schema.field(at).type))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("labels", [True] * 25),
        ("input", "another text"),
        ("split", "held_out"),
        ("group", 7),
        ("age", "80"),
        ("current_labels", None),
    ],
)
def test_visits_changed_since_they_were_prepared_are_found_behind_a_footer_that_fits(tmp_path, column, value):
    rows = [replace(visit, subgroups={"age": "70", "sex": "F"}, prediction_time="2101-01-01") for visit in visits(ROWS)]
    _, cohort, _ = embedded(tmp_path, rows)
    assert list(values_of(cohort, audited(cohort, "visits"))) == []
    stage, first = Stage(cohort.root, "visits", {}), cohort.shards[0]
    table = changed(cohort.read(first), column, value)
    stage.write(first.index, table, rows=first.rows, input_hash=first.content_hash)
    audit = audited(cohort, "visits")
    assert audit.damaged == {}
    assert ["not those that were prepared" in line for line in values_of(cohort, audit)] == [True]


def test_visits_with_other_columns_are_found(tmp_path):
    _, cohort, _ = embedded(tmp_path, visits(ROWS))
    first = cohort.shards[0]
    Stage(cohort.root, "visits", {}).write(
        first.index, cohort.read(first).drop_columns(["age"]), rows=first.rows, input_hash=first.content_hash
    )
    audit = audited(cohort, "visits")
    assert ["not those that were prepared" in line for line in values_of(cohort, audit)] == [True]


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([5, 6], ""),
        ([], "1 visits without a token"),
        ([3, -1], "1 values below 0"),
        ([3, None], "1 values below 0"),
        (None, "1 visits without a value"),
    ],
)
def test_token_ids_below_0_and_visits_without_a_token_are_found(tmp_path, ids, problem):
    _, cohort, _ = embedded(tmp_path, visits(ROWS))
    shard = cohort.shards[0]
    rows = pa.array([ids, *[[1, 2]] * (shard.rows - 1)], pa.list_(pa.int32()))
    table = pa.table({"visit_id": cohort.read(shard, ["visit_id"])["visit_id"], "input_ids": rows})
    Stage(cohort.root, "tokens", {}).write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)
    found = list(values_of(cohort, audited(cohort, "tokens")))
    assert [f"input_ids has {problem}" in line for line in found] == ([True] if problem else [])


def test_a_doubled_visit_id_is_found(tmp_path):
    rows = [*visits(ROWS), next(iter(visits(["train"])))]
    cohort = cohorts.commit(str(tmp_path), rows, fields={}, shard_rows=8, facts={})
    assert ["1 visit_ids stand more than once" in line for line in audit_ids(cohort)] == [True]


def test_status_shows_every_stage_and_shards_done_and_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.status.require_there", lambda *_: None)  # this run's models are nowhere
    config, cohort, stage = embedded(tmp_path, visits(ROWS))
    stage.delete(1)
    stage.delete(2)
    lines = list(plan(config))
    assert "train 40, tuning 10, held_out 10 visits, 0 unlabeled" in lines[1]
    assert [line for line in lines if line.startswith("embeddings")] == [
        f"embeddings   {len(cohort.shards) - 2}/{len(cohort.shards)} shards, missing 1-2"
    ]
    screen = Console(io.StringIO())
    run(config, screen)
    assert screen.stream.getvalue().splitlines() == lines


def test_verify_names_a_part_that_no_shard_owns(tmp_path):
    config, cohort, stage = embedded(tmp_path, visits(ROWS))
    first, screen = cohort.shards[0], Console(io.StringIO())
    stage.write(99, stage.read(first.index), rows=first.rows, input_hash=first.text_hash)
    with pytest.raises(ArtifactError, match=r"problems \(listed above\)"):
        verify.run(config, screen)
    assert f"problem: {stage.path(99)}: belongs to no shard of the visits; delete it\n" in screen.stream.getvalue()


def test_parts_made_with_other_versions_are_shown_and_are_no_problem(tmp_path, monkeypatch):
    config, cohort, stage = embedded(tmp_path, visits(ROWS))
    made = {
        shard.index: {"torch": "2.13.0", "transformers": f"5.2{3 + (n > 0)}.0"} for n, shard in enumerate(cohort.shards)
    }
    for shard in cohort.shards[:-1]:  # the last one was made before versions were recorded
        monkeypatch.setattr(artifacts, "versions", lambda _, index=shard.index: made[index])
        recorded = Stage(cohort.root, "embeddings", stage.fields, ["torch"])
        recorded.write(shard.index, stage.read(shard.index), rows=shard.rows, input_hash=shard.text_hash)
    out, others = io.StringIO(), len(cohort.shards) - 2
    with pytest.raises(CkdError):
        verify.run(config, Console(stream=out))
    plural = "s" * (others > 1)
    assert f"embeddings: made with torch 2.13.0 ({others + 1} parts) and of unknown version (1 part)" in out.getvalue()
    several = f"transformers 5.23.0 (1 part) and 5.24.0 ({others} part{plural}) and of unknown version (1 part)"
    assert f"embeddings: made with {several}" in out.getvalue()
    assert not audited(cohort, "embeddings").damaged


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], {"torch", "transformers", "tokenizers"}),
        (["teacher.adapter=lora/model"], {"torch", "transformers", "tokenizers", "peft"}),
        (["teacher.adapter=lora/model", "teacher.engine=vllm"], {"torch", "transformers", "tokenizers", "vllm"}),
    ],
)
def test_a_stage_records_what_it_uses(words, wanted):
    found = {step.name: set(step.libraries(load(None, words))) for step in stages.STEPS}
    assert found["embeddings"] == wanted
    assert found["tokens"] == {"transformers", "tokenizers"} and found["visits"] == set()


def test_verify_names_damaged_parts_and_all_that_is_made_from_their_stage(tmp_path):
    config, _, stage = embedded(tmp_path, visits(ROWS))
    path = Path(stage.path(1))
    whole = path.read_bytes()
    for at in range(40, len(whole), 97):
        damaged = bytearray(whole)
        damaged[at] ^= 16
        path.write_bytes(damaged)
        screen = Console(io.StringIO())
        with pytest.raises((ArtifactError, IncompleteError)) as stopped:
            verify.run(config, screen)
        if isinstance(stopped.value, IncompleteError):  # the other stages are not made yet; these bytes mean nothing
            assert stage.read(1) == pq.read_table(pa.BufferReader(whole)), at
            continue
        assert f"problem: {path}: " in screen.stream.getvalue()
        later = "head, soft_labels, student, predictions, metrics.json, report.html"
        then = "what was made from it after the damage is wrong too, delete that as well"
        assert f"then: embeddings: {then}: {later}\n" in screen.stream.getvalue()


def test_what_a_stage_needs_is_a_stage_before_it():
    for n, stage in enumerate(stages.STAGES):
        assert set(stage.needs) <= {earlier.name for earlier in stages.STAGES[:n]}
    assert stages.made_from("tokens") == ["student", "predictions"]
    assert stages.made_from("visits") == [stage.name for stage in stages.STAGES[1:]]
