"""The figures of a teacher pass, against plain arithmetic and the tokenizer.

They are consistent with each other, and None where there is nothing.
"""

import io
import json
import time
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ckd.config import TeacherConfig
from ckd.configfile import load
from ckd.prompts import Prompter
from ckd.run import Run
from ckd.teacher.accounting import Account, figures, lines, per_worker
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.engine import Load
from ckd.teacher.matrix_rate import matrix_rate
from ckd.teacher.work import Work
from ckd.visits.cohort import Cohort
from jobs import embed
from jobs.console import Console
from testbed.rows import rows, write_jsonl

LOAD = Load(seconds=30.0, revision="abc", adapter=None, engine="transformers", device="cpu")
RATES = (
    "padding_share",
    "prefix_share",
    "flop_utilisation",
    "idle_share",
    "peak_bytes",
    "cost",
    "cost_per_million",
    "flops",
    "matrix_flops_per_s",
)


def account(worker="a", started=0.0, ended=10.0, visits=100, tokens=5000, rate=1e12, **work):
    given_work = Work(prompts=visits, tokens=tokens, **work)
    return Account(worker, LOAD, rate, started, ended, 1, visits, tokens, given_work)


def test_the_figures_of_two_workers_are_those_of_plain_arithmetic():
    work = {"computed": 4000, "padding": 400, "prefix_saved": 1400, "busy_s": 9, "flops": 2e12}
    first = account("a", 100, 110, 100, 5000, **work, ooms=1, peak_bytes=7)
    second = account("a", 111, 120, 100, 5000, **work, peak_bytes=9)
    other = account("b", 7, 27, 200, 9000, rate=2e12, computed=9500, padding=500, busy_s=17, flops=6e12, peak_bytes=8)
    found = figures([first, other, second], TeacherConfig(price_per_hour=3.6, gpus_per_worker=2), seconds=50, before=4)
    counts = {"shards": 3, "shards_before": 4, "workers": 2, "visits": 400, "tokens": 19000}
    assert {name: found[name] for name in counts} == counts
    assert found["visits_per_s"] == 400 / 50
    assert found["tokens_per_s"] == 19000 / 50
    assert found["visits_per_s_per_worker"] == 400 / (20 + 20)
    assert found["tokens_per_s_per_worker"] == 19000 / (20 + 20)
    assert found["padding_share"] == 1300 / 17500
    assert found["prefix_share"] == 2800 / 19000
    assert found["flop_utilisation"] == pytest.approx(1e13 / ((20 * 1e12 + 20 * 2e12) * 2))
    assert found["matrix_flops_per_s"] == 1.5e12
    assert found["idle_share"] == pytest.approx(1 - 35 / 40)
    device = {"peak_bytes": 9, "ooms": 1, "load_seconds": 30, "revision": "abc", "adapter": None}
    assert {name: found[name] for name in device} == device
    assert found["cost"] == pytest.approx(3.6 * 2 * (40 + 60) / 3600)
    assert found["cost_per_million"] == pytest.approx(3.6 * 2 * 40 / 3600 / 400 * 1e6)


def test_a_worker_without_a_gpu_is_itself_what_has_a_price_per_hour():
    found = figures([account(ended=36)], TeacherConfig(price_per_hour=2), seconds=60)
    assert found["cost_per_million"] == pytest.approx(2 * 36 / 3600 / 100 * 1e6)
    assert "at 2 per worker and hour" in lines(found)[-1]


def test_what_is_undefined_is_none_and_never_zero():
    found = figures([account(ended=0.0, visits=0, tokens=0, rate=None)], TeacherConfig(), seconds=0)
    for name in (
        *RATES,
        "visits_per_s",
        "tokens_per_s",
        "visits_per_s_per_worker",
        "tokens_per_s_per_worker",
        "price_per_hour",
        "adapter",
    ):
        assert found[name] is None, name
    assert not any(text in " ".join(lines(found)) for text in ("nan", "inf", "None"))
    assert len(lines(found)) == 3


def test_one_worker_without_a_measured_rate_leaves_the_utilisation_undefined():
    found = figures([account(flops=1e12), account("b", rate=None, flops=1e12)], TeacherConfig(), seconds=9)
    assert found["flop_utilisation"] is None
    assert found["matrix_flops_per_s"] is None


def test_two_workers_have_no_common_clock():
    with pytest.raises(ValueError, match="no common clock"):
        account("a") + account("b")


accounts = st.builds(
    lambda worker, started, wall, visits, **work: account(worker, started, started + wall, visits, 50 * visits, **work),
    worker=st.sampled_from("abc"),
    started=st.integers(0, 1000),
    wall=st.integers(1, 50),
    visits=st.integers(1, 100),
    computed=st.integers(100, 200),
    padding=st.integers(0, 99),
    busy_s=st.integers(1, 60).map(float),
    flops=st.integers(1, 10).map(float),
    peak_bytes=st.integers(0, 9),
)


@given(st.lists(accounts, min_size=1, max_size=8), st.randoms())
def test_the_figures_do_not_depend_on_the_order_of_the_shards_nor_on_how_they_are_grouped(found, random):
    config = TeacherConfig(price_per_hour=2)
    wanted = figures(found, config, seconds=9)
    random.shuffle(found)
    assert figures(found, config, seconds=9) == pytest.approx(wanted)
    assert figures(per_worker(found), config, seconds=9) == pytest.approx(wanted)
    assert 0 <= wanted["padding_share"] < 1
    assert 0 <= wanted["idle_share"] <= 1


def test_an_account_survives_json():
    whole = replace(account(busy_s=2.5), load=replace(LOAD, adapter="x"))
    assert Account.from_row(json.loads(json.dumps({"account": asdict(whole)}))) == whole


def test_the_matrix_rate_of_this_cpu_is_that_of_a_plain_product():
    a = torch.randn(512, 512)
    a @ a
    plain = []
    for _ in range(9):
        started = time.perf_counter()
        a @ a
        plain.append(time.perf_counter() - started)
    measured = matrix_rate("cpu", "float32")
    assert 0.1 < measured / (2 * 512**3 / sorted(plain)[4]) < 10  # this machine is shared: the order of magnitude


def configured(folder, teacher_folder, count, *more):
    found = [row | {"input": row["input"] + " Heart failure. None." * (n % 7)} for n, row in enumerate(rows(0, count))]
    train = write_jsonl(folder / "train.json", found)
    held_out = write_jsonl(folder / "held_out.json", rows(1000, 1008))
    files = [
        f"data.train={train}",
        f"data.held_out={held_out}",
        f"run.results={folder}",
        "run.name=t",
        "data.shard_rows=16",
    ]
    model = [
        f"teacher.base_model={teacher_folder}/base",
        f"teacher.adapter={teacher_folder}/adapter",
        "teacher.dtype=float32",
    ]
    return load(None, [*files, *model, *more])


def embedded_by(config):
    """What the job printed, and its events by kind (the last of each)."""
    console = Console(io.StringIO(), config.run.folder)
    embed.run(config, console)
    events = [json.loads(line) for line in open(f"{config.run.folder}/events.jsonl")]
    return console.stream.getvalue(), {event["event"]: event for event in events}


def check(config, found):
    """Consistent with the tokenizer and with itself."""
    cohort = Cohort.open(config.run.artifacts_root)
    prompter = Prompter(AutoTokenizer.from_pretrained(config.teacher.base_model), config.teacher.max_length)
    texts = [cohort.read(shard).select(["instruction", "input"]).to_pydict() for shard in cohort.shards]
    tokens = sum(len(ids) for text in texts for ids in prompter.encode(text["instruction"], text["input"])[0])
    assert (found["visits"], found["tokens"], found["shards"]) == (cohort.count(), tokens, len(cohort.shards))
    assert 0 <= found["padding_share"] < 1
    assert 0 <= found["prefix_share"] < 1
    assert 0 <= found["idle_share"] <= 1
    assert (
        0 < found["flop_utilisation"] < 1.5
    )  # a shared machine: the ceiling may have been measured in a slower moment
    assert found["peak_bytes"] is None
    assert found["load_seconds"] > 0
    assert found["revision"]
    assert found["adapter"]
    assert (found["engine"], found["device"]) == ("transformers", "cpu")
    assert found["cost"] > found["cost_per_million"] * found["visits"] / 1e6 > 0


def test_an_embed_job_ends_with_its_figures_and_a_job_without_work_has_none(tmp_path, teacher_folder):
    config = configured(tmp_path, teacher_folder, 60, "teacher.price_per_hour=2")
    printed, events = embedded_by(config)
    found = events["embed_accounting"]
    check(config, found)
    assert found["workers"] == 1
    assert found["shards_before"] == 0
    said = [line for line in printed.splitlines() if line in {f"embed: {text}" for text in lines(found)}]
    assert len(said) == 4
    again, events = embedded_by(config)
    assert events["embed_accounting"] == found
    assert "cost" not in again


def test_a_resumed_job_accounts_only_for_what_it_did_and_says_so(tmp_path, teacher_folder):
    config = configured(tmp_path, teacher_folder, 60)
    _, events = embedded_by(config)
    EMBEDDINGS.stage(Run(config)).delete(1)
    printed, later = embedded_by(config)
    whole, found = events["embed_accounting"], later["embed_accounting"]
    assert (found["shards"], found["shards_before"], found["visits"]) == (1, whole["shards"] - 1, 16)
    assert found["tokens"] < whole["tokens"]
    assert f"visits in the shards done now (1, not the {whole['shards'] - 1} of before)" in printed


def test_the_figures_of_two_ray_actors_add_up(tmp_path, teacher_folder, local_ray):
    config = configured(tmp_path, teacher_folder, 90, "teacher.workers=2", "teacher.price_per_hour=2")
    _, events = embedded_by(config)
    check(config, events["embed_accounting"])
    assert events["embed_accounting"]["workers"] in (1, 2)  # a quick first actor may do it all
