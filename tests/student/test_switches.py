"""Switches of other programs in the environment change no value and let nothing wait."""

import os
import subprocess
import sys

import pytest

from ckd.run import Run
from ckd.switches import foreign, take_out, told
from jobs.cli import main
from jobs.shards import Guarded
from jobs.submit import overrides
from tests.student.trainings import assert_same, prepared, weights

LEFT = {  # torchrun, Open MPI, `accelerate config`, other programs' settings
    **{"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
    **{"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "PMI_SIZE": "2", "TORCHELASTIC_RUN_ID": "1"},
    **{"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"},
    **{"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2", "ACCELERATE_DYNAMO_BACKEND": "EAGER"},
    **{"NVIDIA_TF32_OVERRIDE": "1", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
}
KEPT = ("HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "CUDA_HOME")


def test_a_student_trained_under_them_has_equal_weights_and_one_line_names_them(tmp_path, base, undisturbed):
    config = prepared(tmp_path, base)
    command = [sys.executable, "-m", "jobs", "train-student", *overrides(config)]
    done = subprocess.run(command, env={**os.environ, **LEFT}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "only the configuration decides" in line]
    assert all(name in line for name in LEFT)
    assert "ranks are started by student.workers" in line
    assert_same(weights(config), weights(undisturbed[0]))


def test_what_is_the_users_or_the_machines_stays():
    assert foreign([*LEFT, *KEPT]) == sorted(LEFT)
    assert list(told([])) == []


@pytest.fixture
def left(monkeypatch):
    """The variables in this process's environment, as a worker has them from what started its machine's Ray."""
    for name, value in LEFT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", "/models")


def test_a_worker_over_shards_has_none_of_them_when_it_is_made(left):
    seen = Guarded(lambda: lambda shard: {"there": foreign(os.environ), "kept": os.environ["HF_HOME"]})
    assert seen(type("Shard", (), {"index": 0})) == {"there": [], "kept": "/models"}


def test_a_rank_keeps_only_what_ray_train_has_set(left, base, tmp_path):
    Run(prepared(tmp_path, base, workers="1")).elsewhere().__setstate__({})
    assert foreign(os.environ) == ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"]


def test_every_command_takes_them_out_before_it_starts(left, capsys):
    assert main(["status"]) == 0
    assert foreign(os.environ) == []
    assert "ACCELERATE_MIXED_PRECISION" in capsys.readouterr().err
    assert main(["status"]) == 0
    assert capsys.readouterr().err == ""
    assert take_out() == []
