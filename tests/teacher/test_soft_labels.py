"""Soft labels: right head per visit, and the public files aligned row by row."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.teacher.head import HEAD, save_heads
from ckd.teacher.head_fit import train_heads
from ckd.teacher.soft_labels import SoftLabelWorker, public_rows
from ckd.visits.columns import matrix
from ckd.visits.labels import CCS25, DISEASES, NUM_LABELS
from ckd.visits.public_files import write_head, write_rows, write_soft_labels
from ckd.visits.splits import of_adapter
from ckd.visits.visit import Visit
from tests.teacher.embedded import embedded, visits


def labelled(tmp_path, rows, overrides=()):
    config, cohort, stage = embedded(tmp_path, rows, overrides=overrides)
    heads = train_heads(config, cohort, stage, lambda _: None)
    artifact = HEAD.artifact(Run(config, {"head": {}}))
    write_head(f"{artifact.folder}/h.pt", heads.weight[heads.final], heads.bias[heads.final])
    save_heads(artifact, heads, "h.pt")
    soft = Stage(cohort.root, "soft_labels", {"head": artifact.identity()})
    run = Run(config, {"visits": {}, "embeddings": stage.fields, "head": {}, "soft_labels": soft.fields})
    worker = SoftLabelWorker(run)
    for shard in cohort.shards:
        worker(shard)
    return run, cohort, stage, heads, soft


@pytest.mark.parametrize("asked", [[], ["head.cross_fitted=false"]])
def test_every_visit_gets_the_head_that_never_saw_its_subject_unless_asked_otherwise(tmp_path, asked):
    run, cohort, stage, heads, soft = labelled(
        tmp_path, visits(["train"] * 40 + ["tuning"] * 10 + ["held_out"] * 10), asked
    )
    for shard in cohort.shards:
        rows = cohort.read(shard).to_pylist()
        part = soft.read(shard.index)
        x = matrix(stage.read(shard.index)["embedding"])
        assert part["visit_id"].to_pylist() == [r["visit_id"] for r in rows]
        for row, vector, logits, probabilities, crossed in zip(
            rows,
            x,
            matrix(part["logits"]),
            matrix(part["probabilities"]),
            part["out_of_fold"].to_pylist(),
            strict=True,
        ):
            group = Visit("", "", row["input"], None, row["subject_id"]).group
            assert crossed == (row["split"] == "train" and run.config.head.cross_fitted)
            head = int(heads.folds.assign(np.array([group], np.uint64))[0]) if crossed else heads.final
            np.testing.assert_allclose(logits, heads.weight[head] @ vector + heads.bias[head], atol=1e-4)
            np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_public_soft_labels_follow_the_input_files_whatever_the_splits(tmp_path):
    rows = list(visits(["train"] * 30 + ["tuning", "held_out"] * 10, per_subject=1))
    rows = [
        replace(v, source="train" if n < 30 else "tuning", line=n + 1 if n < 30 else n - 29) for n, v in enumerate(rows)
    ]
    given = tmp_path / "x.json"
    given.touch()
    run, cohort, _, _, soft = labelled(tmp_path, rows, overrides=[f"data.tuning={given}"])
    by_text = {}
    for shard in cohort.shards:
        for text, p in zip(
            cohort.read(shard)["input"].to_pylist(),
            matrix(soft.read(shard.index, ["probabilities"])["probabilities"]),
            strict=True,
        ):
            by_text[text] = p
    for split, wanted in (("train", rows[:30]), ("tuning", rows[30:])):
        path = str(tmp_path / f"{split}.json")
        assert write_soft_labels(path, (r["probabilities"] for r in public_rows(run, split)), CCS25) == len(wanted)
        for item, visit in zip(json.load(open(path)), wanted, strict=True):
            assert list(item) == list(DISEASES)
            np.testing.assert_allclose(list(item.values()), by_text[visit.input], rtol=1e-6)
        kept = str(tmp_path / f"{split}_kept.json")
        write_rows(kept, public_rows(run, split), CCS25)
        assert [json.loads(line)["input"] for line in open(kept)] == [v.input for v in wanted]


def test_public_soft_labels_leave_the_adapters_train_subjects_out(tmp_path):
    rows = list(visits(["train"] * 40 + ["tuning"] * 10, per_subject=1))
    run, _, _, _, _ = labelled(tmp_path, rows, overrides=["teacher.adapter_share=0.5"])
    spent = {v.input for v in rows if v.split == "train" and of_adapter([v.group], 0.5)[0]}
    found = [row["input"] for split in ("train", "tuning") for row in public_rows(run, split)]
    assert spent and found == [v.input for v in rows if v.input not in spent]


def test_the_public_head_file_loads_into_a_plain_linear_layer(tmp_path):
    weight, bias = (
        np.random.default_rng(0).normal(size=(NUM_LABELS, 6)).astype(np.float32),
        np.arange(NUM_LABELS, dtype=np.float32),
    )
    write_head(str(tmp_path / "h.pt"), weight, bias)
    layer = torch.nn.Linear(6, NUM_LABELS)
    layer.load_state_dict(torch.load(tmp_path / "h.pt", weights_only=True))
    np.testing.assert_array_equal(layer.weight.detach().numpy(), weight)
    np.testing.assert_array_equal(layer.bias.detach().numpy(), bias)


def test_soft_labels_of_a_new_head_do_not_mix_with_old_ones(tmp_path):
    from ckd.errors import ArtifactError

    _, cohort, _, _, soft = labelled(tmp_path, visits(["train"] * 20 + ["tuning"] * 4 + ["held_out"] * 4))
    shard = cohort.shards[0]
    with pytest.raises(ArtifactError, match="head="):
        Stage(cohort.root, "soft_labels", {"head": "another"}).is_done(
            shard.index, rows=shard.rows, input_hash=shard.text_hash
        )
    assert soft.is_done(shard.index, rows=shard.rows, input_hash=shard.text_hash)
