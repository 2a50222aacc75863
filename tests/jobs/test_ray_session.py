"""What stands in the way of workers is told before anything is loaded: GPUs that are not there, a wrong cluster."""

import io
from argparse import Namespace

import pytest

from ckd.configfile import load
from ckd.errors import ConfigError, UnreachableError
from ckd.section import Workers
from jobs import cli, predict, ray_session, shards
from jobs.console import Console
from jobs.ray_session import require_room
from testbed.ports import free_port
from testbed.rows import row, write_jsonl


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


def room(monkeypatch, gpus, *words):
    monkeypatch.setattr(ray_session, "gpus", lambda: gpus)
    require_room(load(None, list(words)), "teacher", "student")


@pytest.mark.parametrize("command", ["run", "embed"])
def test_a_machine_without_a_gpu_refuses_what_asks_for_one_before_anything_is_made(tmp_path, capsys, command):
    words = [
        "--config",
        "jobs/default.yaml",
        f"data.train={write_jsonl(tmp_path / 'x.json', [row(1)])}",
        "data.tuning=",
    ]
    assert cli.main([command, *words, f"run.results={tmp_path}/results", f"run.public_files={tmp_path}"]) == 2
    out, said = capsys.readouterr()
    assert said.count("\n") == 1 and not out
    assert "teacher.workers=1 with teacher.gpus_per_worker=1" in said and "torch sees 0 on this machine" in said
    assert "give teacher.workers=0 teacher.gpus_per_worker=0" in said
    assert ("student.workers=1" in said) == (command == "run")
    assert [path.name for path in tmp_path.rglob("*.parquet")] == []


@pytest.mark.parametrize(
    ("gpus", "words", "fits"),
    [
        (0, [], True),
        (0, ["teacher.workers=2"], True),
        (0, ["teacher.workers=0", "teacher.gpus_per_worker=1"], False),
        (1, ["teacher.workers=0", "teacher.gpus_per_worker=1"], True),
        (1, ["teacher.workers=0..8", "teacher.gpus_per_worker=1"], True),
        (1, ["teacher.workers=2", "teacher.gpus_per_worker=0.5"], True),
        (1, ["teacher.workers=2", "teacher.gpus_per_worker=1"], False),
        (1, ["student.workers=1", "student.gpus_per_worker=2"], False),
    ],
)
def test_the_least_number_of_workers_must_find_gpus(monkeypatch, gpus, words, fits):
    if fits:
        room(monkeypatch, gpus, *words)
        return
    with pytest.raises(ConfigError, match=f"torch sees {gpus} on this machine"):
        room(monkeypatch, gpus, *words)


def test_on_a_cluster_this_machines_gpus_count_for_what_runs_here_only(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray_session, "require_head", lambda address: None)
    asks = ["teacher.gpus_per_worker=1", "student.gpus_per_worker=1", "teacher.workers=4"]
    room(monkeypatch, 0, *asks, "student.workers=1")
    with pytest.raises(ConfigError, match=r"student.workers=0 with student.gpus_per_worker=1, torch"):
        room(monkeypatch, 0, *asks)


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [("http://127.0.0.1:8265", 2, "expected the head's HOST:6379"), ("127.0.0.1:{}", 3, "nothing answers")],
)
def test_every_way_to_workers_refuses_a_wrong_cluster_in_one_line(tmp_path, monkeypatch, address, code, says):
    address = address.format(free_port())  # here: both processes of the tests must find the same names
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # that of other tests in this process
    console = Console(io.StringIO())
    given = Namespace(input="nowhere.json", engine="torch", meds="", model="nowhere", out=str(tmp_path))
    ways = [
        lambda: list(shards._run(None, [1], (Workers(min=1, max=1), 0, 1), print)),
        lambda: require_room(load(None, ["teacher.workers=1"]), "teacher"),
    ]
    if code == 2:
        ways.append(lambda: predict.run(load(None, ["student.workers=1"]), console, given))
    for way in ways:
        with pytest.raises(ConfigError if code == 2 else UnreachableError) as refused:
            way()
        assert str(refused.value).startswith(f"RAY_ADDRESS={address}: ")
        assert says in str(refused.value) and "unset RAY_ADDRESS" in str(refused.value)
        assert refused.value.exit_code == code
