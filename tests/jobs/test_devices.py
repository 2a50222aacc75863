"""Whether GPUs compute, judged on what machines answer; no GPU is needed here."""

import json
import re
import subprocess

import pytest

from ckd.configfile import load
from jobs import devices, doctor

H200 = {"name": "NVIDIA H200", "free": 140 * 10**9, "total": 150 * 10**9, "error": ""}


def found(*gpus, **more):
    return {"torch": "2.13.0", "cuda": "13.0", "driver": "13.1", "devices": list(gpus), **more}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (found(error="no answer in 120 s"), "no kernel ran: no answer in 120 s; look at nvidia-smi"),
        (found(H200, cuda=""), "torch 2.13.0 is built without CUDA"),
        (found(driver=""), "libcuda.so.1 is not found; .* on GKE set LD_LIBRARY_PATH=/usr/local/nvidia/lib64"),
        (found(H200, driver="12.8"), r"the driver takes CUDA 12.8, torch 2.13.0 is built for 13.0; update the driver"),
        (found(), "0 GPUs compute, a worker asks for 1"),
        (found(H200 | {"error": "CUDA error: an illegal"}), r"GPU 0 \(NVIDIA H200\): CUDA error: an illegal"),
        (found(H200, H200 | {"free": 6 * 10**9}), "NVIDIA H200 has 6.0 of 150.0 GB free, .* layers alone take 14.0"),
    ],
)
def test_a_gpu_that_does_not_compute_is_told_with_what_to_do(answer, says):
    first = next(devices.lacks(answer, 1, 14 * 10**9))
    assert re.match(says, first), first


@pytest.mark.parametrize("driver", ["13.0", "13.1", "14.0"])
def test_gpus_that_compute_are_shown(driver):
    assert list(devices.lacks(found(H200, driver=driver), 1, 14 * 10**9)) == []
    assert "a kernel ran on each of 1 GPUs (NVIDIA H200), at least 140 GB free" in devices.shown(found(H200))
    assert list(devices.lacks(found(H200), 0.5, 0)) == []
    assert list(devices.lacks(found(H200), 2, 0)) == [
        "1 GPUs compute, a worker asks for 2; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    ]


@pytest.mark.parametrize(
    ("words", "gigabytes"),
    [
        ([], 14),
        (["teacher.dtype=float32"], 28),
        (["teacher.gpus_per_worker=0.5"], 28),
        (["teacher.gpus_per_worker=2"], 14),
        (["teacher.gpus_per_worker=2", "teacher.device_map=auto"], 7),
        (["teacher.gpus_per_worker=2", "teacher.engine=vllm", "teacher.tensor_parallel=2"], 7),
    ],
)
def test_a_gpu_needs_room_for_its_share_of_the_layers_for_every_worker_on_it(words, gigabytes):
    config = load(None, ["teacher.gpus_per_worker=1", "teacher.dtype=bfloat16", *words])
    assert devices.need(config, 7 * 10**9) == gigabytes * 10**9


def test_a_process_of_its_own_looks_past_what_ray_hides(monkeypatch):
    asked = []

    def run(words, **more):
        asked.append(more["env"].get("CUDA_VISIBLE_DEVICES"))
        return subprocess.CompletedProcess(words, 0, f"a library's note\n{json.dumps(found(H200))}\n", "")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(devices.subprocess, "run", run)
    assert devices.ask(True) == devices.ask(False) == found(H200)
    assert asked == [None, ""]
    monkeypatch.setattr(devices.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, -6, "", ""))
    assert devices.ask(False) == {"error": "the process that computed ended with code -6"}


def test_what_triton_misses_is_told_where_something_compiles(monkeypatch, tmp_path):
    on_a_gpu, compiled = "teacher.gpus_per_worker=1", "teacher.compile=true"
    wants = [devices.compiles(load(None, words)) for words in ([on_a_gpu], [compiled], [on_a_gpu, compiled])]
    assert wants == [False, False, True]
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install gcc" in devices.compiler_lacks()
    monkeypatch.setenv("CC", "mycc")
    monkeypatch.setattr(devices.sysconfig, "get_path", lambda _: str(tmp_path))
    assert devices.compiler_lacks().startswith(f"{tmp_path}/Python.h is missing")
    (tmp_path / "Python.h").write_text("")
    assert devices.compiler_lacks() == ""


def test_the_doctor_judges_every_machine_with_gpus():
    config = load(None, ["teacher.gpus_per_worker=1", "teacher.compile=true"])
    machines = {
        "spot-1": {"devices": found(H200), "need": 0, "compiler": ""},
        "spot-2": {
            "devices": found(driver=""),
            "need": 0,
            "compiler": "no C compiler, which Triton calls; install gcc",
        },
        "head": {"devices": {}, "need": 0, "compiler": ""},
    }
    lines = [(line.what, line.ok, line.text.partition(":")[0]) for line in doctor._devices(machines, config)]
    assert lines == [
        ("kernel", True, "spot-1"),
        ("compiler", True, "spot-1"),
        ("kernel", False, "spot-2"),
        ("compiler", False, "spot-2"),
        ("compiler", True, "head"),
    ]


def test_a_machine_without_a_gpu_answers_so():
    assert devices.look()["devices"] == [] or all(one["error"] == "" for one in devices.look()["devices"])
