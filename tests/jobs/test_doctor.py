"""`ckd doctor` here, and what it makes of machines' answers. On a real cluster: tests/faults/test_submit.py."""

import io
import os
from argparse import Namespace

import pytest

from ckd.configfile import load
from ckd.errors import ConfigError
from jobs import doctor, machine
from jobs.console import Console
from tests.student.student_cohort import make_base


@pytest.fixture
def sane(tmp_path, teacher_folder, monkeypatch):
    """(words of a configuration that fits this machine, its folder)."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: os_usage(40, 100))
    models = [
        f"teacher.base_model={teacher_folder}/base",
        f"teacher.adapter={teacher_folder}/adapter",
        f"student.base_model={make_base(tmp_path / 'b')}",
    ]
    return [f"run.results={tmp_path}/results", *models], tmp_path


def os_usage(free, total):
    return machine.shutil._ntuple_diskusage(total * 10**9, (total - free) * 10**9, free * 10**9)


def said(words, address="", wake=False):
    console = Console(io.StringIO())
    wrong = ""
    try:
        doctor.run(load(None, words), console, Namespace(config=None, words=words, address=address, wake=wake))
    except ConfigError as error:
        wrong = str(error)
    return console.stream.getvalue(), wrong


def test_a_machine_that_is_fit_says_so_line_by_line_and_keeps_nothing_of_it(sane):
    words, folder = sane
    out, wrong = said(words)
    assert not wrong
    assert all(line.startswith("ok ") for line in out.splitlines()[:-1]), out
    assert "doctor: all 9 checks ok" in out
    assert "40 GB free" in out and "teacher.adapter is " in out
    assert not list(folder.rglob("*doctor*"))
    assert "secret" not in out


def test_without_a_configuration_storage_and_models_are_left_alone(sane):
    out, wrong = said([])
    assert not wrong
    assert "none given" in out and "storage" not in out.replace("storage and models", "")


@pytest.mark.parametrize(
    ("word", "todo"),
    [
        (
            "teacher.base_model=/nowhere/model",
            "todo models   this machine: teacher.base_model=/nowhere/model: no such folder",
        ),
        ("teacher.adapter=/nowhere/adapter", "no adapter_config.json there"),
        ("teacher.gpus_per_worker=64", "todo GPUs"),
        ("run.results=/proc/nowhere", "todo storage  /proc/nowhere"),
    ],
)
def test_what_is_missing_is_a_line_with_what_to_do(sane, word, todo):
    words, _ = sane
    out, wrong = said([*words, word])
    assert todo in out
    assert wrong.startswith("doctor: ") and "see above" in wrong


def test_a_token_that_others_can_read_and_a_full_disk_are_told(sane, monkeypatch):
    words, folder = sane
    (folder / "token").chmod(0o640)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: os_usage(4, 100))
    out, wrong = said(words)
    assert f"chmod 600 {folder}/token" in out
    assert "is 96% full" in out
    assert wrong.startswith("doctor: 2 of ")


def answered(**more):
    found = {
        "versions": machine.versions(),
        "auth": "token",
        "surroundings": [],
        "disks": {"/tmp": (50, 100)},
        "storage": {"s3://b/.doctor-1": ""},
        "models": {"m": "1"},
    }
    return {**found, **more}


def test_machines_that_differ_are_named():
    found = {"head": answered(), "spot": answered(versions={**machine.versions(), "torch": "1.0"}, models={"m": "2"})}
    found["spot"]["storage"] = {"s3://b/.doctor-1": "s3://b cannot be read"}
    assert "spot has torch 1.0" in str(doctor._same_versions(found))
    [models] = doctor._model_lines(found)
    assert not models.ok and "different models under one name" in models.text
    [storage] = doctor._storage(found, {"s3://b/.doctor-1": "x"})
    assert not storage.ok and storage.text == "spot: s3://b cannot be read"
    same = {"head": answered(), "spot": answered()}
    assert doctor._same_versions(same).ok
    assert all(
        line.ok
        for line in [
            *doctor._model_lines(same),
            *doctor._storage(same, {"s3://b/.doctor-1": "x"}),
            *doctor._disks(same),
        ]
    )


def test_what_a_machine_lacks_around_it_is_told_by_name():
    found = {"head": answered(), "spot": answered(surroundings=["ulimit -n is 64; raise it"])}
    [line] = doctor._surroundings(found)
    assert not line.ok and line.text == "spot: ulimit -n is 64; raise it"
    [line] = doctor._surroundings({"head": answered()})
    assert line.ok


def test_a_mark_that_another_machine_does_not_see_is_told(tmp_path):
    marks, refused = machine.leave_marks([str(tmp_path)])
    assert not refused
    [(url, mark)] = marks.items()
    assert machine.read_mark(url, mark) == ""
    assert "not there" in machine.read_mark(url, "other")
    machine.remove_marks(marks)
    assert os.listdir(tmp_path) == []
    assert "mount the same storage" in machine.read_mark(url, mark)
