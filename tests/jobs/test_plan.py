"""`ckd plan`: its sample is fair, its figures hold for all visits, its costs follow the formula, it writes nothing."""

import gzip
import io
import json
import re
from argparse import Namespace
from collections import Counter

import pyarrow.parquet as pq
import pytest

from ckd.configfile import load
from ckd.errors import ConfigError, DataError
from ckd.run import Run
from ckd.visits.inputs import Input
from ckd.visits.labels import CCS25
from ckd.visits.visit import to_table
from jobs import plan
from jobs.console import Console
from testbed.rows import row, rows, write_jsonl
from tests.student.student_cohort import make_base


def said(config, price=0.0, spot_price=0.0, rate=0.0):
    console = Console(io.StringIO())
    plan.run(config, console, Namespace(price=price, spot_price=spot_price, visits_per_second=rate))
    return console.stream.getvalue()


@pytest.fixture(scope="module")
def planned(tmp_path_factory, teacher_folder):
    root = tmp_path_factory.mktemp("planned")
    train = [row(n, input=f"visit {n}, " + "Heart failure. " * (n % 7)) for n in range(60)]
    write_jsonl(root / "train.json", [*train, {"instruction": "x"}, row(99, output=None)])
    write_jsonl(root / "tuning.json", rows(200, 220))
    return load(
        None,
        [
            *f"data.train={root}/train.json data.tuning={root}/tuning.json run.results={root}/results".split(),
            *f"teacher.base_model={teacher_folder}/base student.base_model={make_base(root / 'bert')}".split(),
            *("student.max_length=64", "teacher.workers=0..4", "teacher.gpus_per_worker=1", "data.shard_rows=16"),
        ],
    )


def test_the_figures_are_those_of_all_visits_when_all_are_drawn_and_nothing_is_written(planned, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    from ckd.prompts import Prompter

    results = tmp_path.parent / "planned0"
    before = sorted(results.rglob("*"))
    out = said(planned)
    assert sorted(results.rglob("*")) == before
    assert "82 rows; of 82 drawn 81 can be used: about 80 visits for the teacher, 60 of them train the student" in out
    visits = [
        v
        for one in (planned.data.train, planned.data.tuning)
        for v in Input(one, "train", CCS25).rows()
        if getattr(v, "labels", None)
    ]
    prompter = Prompter(AutoTokenizer.from_pretrained(planned.teacher.base_model), planned.teacher.max_length)
    ids, _ = prompter.encode([v.instruction for v in visits], [v.input for v in visits])
    assert f"mean {sum(map(len, ids)) / len(ids):,.0f}," in out
    assert f"{sum(map(len, ids)):.3g} tokens" in out
    assert "teacher, 4 workers of 1 GPU:" in out
    assert "cost: give --price" in out


def test_costs_follow_the_stated_formula(planned):
    out = said(planned, 4.0, 1.0, 0.002)
    assert "0.002 visits/s per worker as given" in out
    hours, spot = (
        float(h.replace(",", "")) for h in re.search(r"GPU-hours: ([\d.,]+) on demand, ([\d.,]+) on spot", out).groups()
    )
    assert float(re.search(r"cost on demand: ([\d.]+)", out)[1]) == pytest.approx(hours * 4, rel=5e-3)
    assert float(re.search(r"cost on spot: ([\d.]+)", out)[1]) == pytest.approx(spot * 1, rel=5e-3)
    # 80 visits at 0.002/s: a shard takes 8,000 s, a preemption costs 4,000 + 270 of them, 0.05 times an hour.
    share = 0.05 * (16 / 0.002 / 2 + 270) / 3600
    assert f"on spot {share:.2%} of the time is done again" in out
    assert spot > hours
    dear = said(planned, 0.0, 1.0)
    assert "cost on demand" not in dear


def test_what_is_embedded_already_is_not_paid_again(planned, tmp_path):
    from ckd.store.artifacts import Stage
    from ckd.visits.cohort import Cohort

    config = planned.model_copy(update={"run": planned.run.model_copy(update={"results": str(tmp_path)})})
    tolerant = config.model_copy(update={"data": config.data.model_copy(update={"max_bad_rows": 9})})
    Run(tolerant).prepare(lambda _: None)
    cohort = Cohort.open(config.run.artifacts_root)
    first = cohort.select()[0]
    table = cohort.read(first, ["visit_id"])
    Stage(cohort.root, "embeddings", {}).write(first.index, table, rows=first.rows, input_hash=first.text_hash)
    assert f"{first.rows} visits are embedded already" in said(config)
    lent = config.model_copy(update={"run": config.run.model_copy(update={"embeddings": "results/a/artifacts"})})
    assert "run.embeddings=results/a/artifacts is not paid" in said(lent)


def test_a_plan_without_inputs_or_models_says_what_is_missing(planned, tmp_path):
    with pytest.raises(DataError, match="give data.train"):
        said(load(None, []))
    with pytest.raises(ConfigError, match="teacher.base_model"):
        said(planned.model_copy(update={"teacher": planned.teacher.model_copy(update={"base_model": str(tmp_path)})}))
    bad = write_jsonl(tmp_path / "bad.json", [{"instruction": "x"}])
    with pytest.raises(DataError, match="'ckd validate' says why"):
        said(load(None, [f"data.train={bad}"]))


def test_a_sample_is_fair_and_repeatable_whatever_the_format(tmp_path):
    many = [row(n) for n in range(200)]
    plain = write_jsonl(tmp_path / "a.json", many)
    with gzip.open(tmp_path / "a.json.gz", "wb") as file:
        file.write("\n\n".join(json.dumps(r) for r in many).encode())
    parts = tmp_path / "parts"
    parts.mkdir()
    visits = list(Input(plain, "train", CCS25).rows())
    table = to_table(
        [
            v.__class__(**{f: getattr(v, f) for f in v.__slots__} | {"split": "train", "visit_id": str(i)})
            for i, v in enumerate(visits)
        ],
        len(CCS25),
    )
    for k in range(2):
        pq.write_table(table.slice(k * 100, 100), parts / f"part-{k:05d}.parquet", row_group_size=30)
    for path in (plain, str(tmp_path / "a.json.gz"), str(parts)):
        seen = Counter(v.input for seed in range(200) for v in Input(path, "train", CCS25).sample(10, seed).visits)
        assert Input(path, "train", CCS25).sample(10, 5) == Input(path, "train", CCS25).sample(10, 5)
        one = Input(path, "train", CCS25).sample(10, 1)
        assert (one.rows, one.drawn, len(one.visits)) == (200, 10, 10)
        # 2,000 draws of 200 rows: ten times each, give or take. Below 1 in 10^6 for a fair sampler.
        assert len(seen) >= 195 and max(seen.values()) < 30
        whole = Input(path, "train", CCS25).sample(1000, 1)
        assert (whole.rows, [v.input for v in whole.visits]) == (200, [v.input for v in visits])


def test_a_7b_teacher_is_known_by_its_configuration_alone_and_takes_what_the_scaling_page_says(
    tmp_path, teacher_folder
):
    import shutil

    from transformers import Qwen2Config

    from ckd.estimate import MATRIX_RATE, Assumptions
    from ckd.store.pretrained import Source
    from ckd.teacher.decoder import outline
    from ckd.teacher.work import forward_flops

    shutil.copytree(
        f"{teacher_folder}/base", tmp_path / "qwen", ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    shape = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    Qwen2Config(vocab_size=152064, **shape).save_pretrained(tmp_path / "qwen")
    _, geometry, hidden = outline(load(None, []).teacher, Source.find("teacher.base_model", str(tmp_path / "qwen")))
    assert hidden == 3584
    assert geometry.parameters == pytest.approx(6.525e9, rel=1e-3)  # 7.6 billion without embedding table and lm_head
    flops = forward_flops(geometry, 1, 656 - 201, 201)
    assert flops == pytest.approx(5.9e12, rel=0.03)
    assert Assumptions().ceiling == pytest.approx(MATRIX_RATE / flops, rel=0.03)
