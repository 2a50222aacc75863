"""`ckd submit` before it reaches a cluster: the job's id and command, the paths it takes, its refusals."""

import shlex
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.job_submission import JobStatus

from ckd.config import Config
from ckd.configfile import load
from ckd.errors import ConfigError
from cluster.submit import Outcome, _Log, running
from jobs.cluster_paths import placed, require_shared
from jobs.submit import JobError, _finish, entrypoint, overrides, submission

SHARED = [
    "run.results=s3://bucket/results",
    "data.train=gs://visits/train.json",
    "teacher.adapter=/mnt/nfs/adapter",
    "run.shared_mounts=[/mnt/nfs]",
]

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda word: word[:1] != "~")


@given(words, st.lists(words, max_size=3), st.floats(0, 1), st.integers(0, 10**6), st.none() | st.floats(0, 0.9))
def test_a_configuration_travels_as_overrides_that_make_it(text, mounts, share, seed, dropout):
    config = Config.model_validate(
        {
            "seed": seed,
            "data": {"train": text},
            "run": {"shared_mounts": mounts},
            "student": {"hard_weight": share, "dropout": dropout, "workers": "2..5"},
        }
    )
    assert load(None, overrides(config)) == config
    assert load(None, shlex.split(entrypoint("embed", config))[4:]) == config


def test_the_command_of_a_job_is_short_and_the_config_file_is_part_of_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {train: s3://bucket/visits}\nrun: {results: s3://bucket/results}\n")
    config = load(str(tmp_path / "mine.yaml"), ["teacher.workers=0..8", "student.workers=2", "run.name=7"])
    assert entrypoint("train-head", config) == (
        "python -m jobs train-head run.name=7 run.results=s3://bucket/results data.train=s3://bucket/visits "
        "teacher.workers=0..8 student.workers=2"
    )


def test_a_jobs_id_names_stage_and_run_and_changes_with_the_configuration():
    one, other = (load(None, ["run.name=heart", f"seed={seed}"]) for seed in (1, 2))
    assert submission("embed", one).startswith("ckd-embed-heart-")
    assert submission("embed", one) == submission("embed", one) != submission("embed", other)


def test_a_further_task_is_a_job_of_its_own_whose_public_files_lie_with_it():
    config = require_shared(load(None, [*SHARED, "run.name=icu", "run.task=readmission"]))
    assert submission("run", config).startswith("ckd-run-icu-readmission-")
    assert config.run.public_folder == "s3://bucket/results/icu/tasks/readmission"
    assert require_shared(load(None, shlex.split(entrypoint("run", config))[4:])) == config
    config = require_shared(load(None, [*SHARED, "run.task=x", "run.public_files=here"]))
    assert config.run.public_folder == "s3://bucket/results/tasks/x"


def test_urls_and_shared_mounts_are_taken_and_public_files_follow_the_results():
    config = require_shared(load(None, SHARED))
    assert config.run.public_files == "s3://bucket/results"
    assert (
        require_shared(load(None, [*SHARED, "run.public_files=/mnt/nfs/public"])).run.public_files == "/mnt/nfs/public"
    )
    assert require_shared(load(None, [*SHARED, "teacher.base_model=/mnt/nfs/qwen"]))
    hub = ["teacher.base_model=org/model@refs/pr/1", "teacher.adapter=org/lora@main", "student.base_model=bert@v1"]
    assert require_shared(load(None, [*SHARED, *hub]))  # every machine fetches them for itself


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("run.results=results", "run.results=results"),
        ("run.artifacts=/tmp/artifacts", "run.artifacts=/tmp/artifacts"),
        ("data.train=/mnt/nfs/../../home/train.json", "data.train=/mnt/nfs/../../home/train.json"),
        ("data.tuning=/mnt/nfs2/tuning.json", "data.tuning=/mnt/nfs2/tuning.json"),
        ("data.held_out=file:///home/held_out.json", "data.held_out=/home/held_out.json"),
        ("teacher.adapter=lora/model", "teacher.adapter=lora/model"),
        ("teacher.base_model=/models/qwen", "teacher.base_model=/models/qwen"),
        ("student.base_model=./bert", "student.base_model=./bert"),
        ("run.shared_mounts=[/]", "run.shared_mounts: '/'"),
        ("run.shared_mounts=[nfs]", "run.shared_mounts: 'nfs'"),
    ],
)
def test_what_only_one_machine_sees_is_refused_by_key(word, key):
    with pytest.raises(ConfigError) as refused:
        require_shared(load(None, [*SHARED, word]))
    assert str(refused.value).startswith(key)


def test_a_stage_started_on_a_cluster_by_other_means_refuses_too_and_one_on_this_machine_does_not(monkeypatch):
    local = load(None, ["run.results=results"])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert placed(local) is local
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert placed(local) is local  # no workers: nothing leaves this process
    with pytest.raises(ConfigError, match="run.results=results"):
        placed(load(None, ["run.results=results", "teacher.workers=2"]))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ConfigError, match="takes jobs .'ckd submit"):
        placed(load(None, [*SHARED, "student.workers=2"]))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match="run.results=results"):
        placed(local)


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=4))
def test_a_log_that_is_told_again_and_again_is_written_once(text, breaks):
    shown = []
    log = _Log(shown.append)
    for end, size in [*breaks, (len(text), 3)]:
        log.restart()
        part = text[: min(end, len(text))]
        for at in range(0, len(part), size + 1):
            log.take(part[at : at + size + 1])
    assert "".join(shown) == text


@pytest.mark.parametrize(
    ("outcome", "code", "says"),
    [
        (Outcome("FAILED", 2, ""), 2, "exit code 2"),
        (Outcome("FAILED", 1, ""), 1, "exit code 1"),
        (Outcome("FAILED", 3, ""), 3, "run the same command again"),
        (Outcome("FAILED", -9, ""), 3, "killed by signal 9"),
        (Outcome("FAILED", 137, ""), 3, "killed by signal 9"),
        (Outcome("FAILED", None, "runtime_env setup failed"), 3, "runtime_env setup failed"),
        (Outcome("STOPPED", None, ""), 3, "was stopped"),
    ],
)
def test_a_jobs_end_becomes_the_commands_exit_code(outcome, code, says):
    with pytest.raises(JobError, match=says) as ended:
        _finish(None, "ckd-embed-x-0", outcome)
    assert ended.value.exit_code == code


def test_of_the_jobs_that_run_only_the_same_runs_are_named():
    def job(name, run, status="RUNNING"):
        return SimpleNamespace(
            submission_id=f"ckd-run-{name}", metadata={"run": run, "stage": "run"}, status=JobStatus(status)
        )

    jobs = [
        job("a-01234567", "a"),
        job("a-b-01234567", "a-b"),
        job("a-01234567-89abcdef", "a-01234567"),
        job("a-76543210", "a", "SUCCEEDED"),
        SimpleNamespace(submission_id="ckd-run-a-by-hand", metadata=None, status=JobStatus("RUNNING")),
    ]
    client = SimpleNamespace(list_jobs=lambda: jobs)
    assert running(client, {"run": "a", "stage": "run"}) == ["ckd-run-a-01234567"]
    assert running(client, {"run": "a-b", "stage": "run"}) == ["ckd-run-a-b-01234567"]
    assert running(client, {"run": "a", "stage": "embed"}) == []


def ckd(*words, **environment):
    import os

    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], capture_output=True, text=True, env={**kept, **environment}
    )
    assert done.stderr.count("\n") <= 1, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_local_path_no_address_and_a_cluster_that_does_not_answer_are_one_line_each():
    code, said = ckd("submit", "embed", "--config", "jobs/default.yaml", "--address", "http://127.0.0.1:1")
    assert (code, "run.results=results: a path of one machine" in said) == (2, True)
    code, said = ckd("submit", "embed", *SHARED)
    assert (code, "RAY_ADDRESS" in said) == (2, True)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, said = ckd("submit", "embed", *SHARED, RAY_ADDRESS=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert (code, "nothing answers (ConnectionRefusedError)" in said) == (3, True)
    code, said = ckd("submit", "embed", "--dry-run", *SHARED)
    assert (code, said.startswith("submit: ckd-embed-default-"), "python -m jobs embed run.results=s3://" in said) == (
        0,
        True,
        True,
    )
