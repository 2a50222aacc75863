"""cluster/deploy/skypilot.yaml: SkyPilot's own schema where it is installed, and its two scripts run with fakes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ckd.configfile import load
from jobs.cluster_paths import require_shared
from tests.deploy.deploy_files import DEPLOY, ROOT, changed, read

TASK = read(DEPLOY / "skypilot.yaml")
SKY = Path(os.environ.get("CKD_SKYPILOT", ROOT / ".venv-skypilot")) / "bin" / "python"
SPOT = ("resources", "job_recovery")


@pytest.mark.skipif(not SKY.exists(), reason=f"no SkyPilot in {SKY}; make test-skypilot installs it")
def test_skypilot_takes_the_task_and_refuses_broken_ones(tmp_path):
    broken = [
        changed(TASK, ("resources", "use_spots"), True),
        changed(TASK, ("resources", "any_of", 0, "accelerator"), "L4:8"),
        changed(TASK, ("resources", "disk_size"), "much"),
        changed(TASK, ("resources", "disk_tier"), "fast"),
        changed(TASK, (*SPOT, "strategy"), "EAGER"),
        changed(TASK, (*SPOT, "recover_on_exit_codes"), [300]),
        changed(TASK, ("setups",), ""),
    ]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run(
        [SKY, ROOT / "tests" / "deploy" / "sky_accepts.py"],
        input=json.dumps([TASK, *broken]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, *others = json.loads(done.stdout[done.stdout.index("[") :])
    assert said is None and all(others), (said, others)


def spot_is_recovered(task):
    """Spot machines of several kinds; recovered when they are taken, and after the exit code that another try mends."""
    resources = task["resources"]
    assert resources["use_spot"] is True and len({json.dumps(each) for each in resources["any_of"]}) > 1
    assert resources["job_recovery"]["recover_on_exit_codes"] == [3]
    assert resources["job_recovery"]["max_restarts_on_errors"] > 0
    assert task["envs"]["CKD_URL"] is None, "SkyPilot asks for what is null"
    assert not any("HF_TOKEN" in name for name in task["envs"])
    mounts = {path.removeprefix("~/checkout/"): source for path, source in task["file_mounts"].items()}
    assert all(name == source and (ROOT / source).exists() for name, source in mounts.items()), "code and nothing else"
    assert not {"data", "lora", "results", ".", ".git"} & set(mounts.values()) and "workdir" not in task


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("resources", "use_spot"), False),
        (("resources", "any_of"), [{"accelerators": "L4:8"}]),
        ((*SPOT, "recover_on_exit_codes"), [2, 3]),
        ((*SPOT, "max_restarts_on_errors"), 0),
        (("envs", "CKD_URL"), "s3://my-bucket"),
        (("envs", "HF_TOKEN"), "hf_0123"),
        (("workdir",), "."),
        (("file_mounts", "~/checkout/data"), "data"),
    ],
)
def test_a_task_that_would_lose_the_run_or_carry_visits_is_refused(path, to):
    spot_is_recovered(TASK)
    with pytest.raises(AssertionError):
        spot_is_recovered(changed(TASK, path, to))


@pytest.fixture
def machine(tmp_path):
    """A home with a checkout and commands that write down what they are given; runs one of the task's scripts there."""

    def command(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def run(script, driver="580.95.05", python=0, **environment):
        command(tmp_path / "bin/nvidia-smi", f"echo {driver}; echo {driver}")
        command(tmp_path / "bin/python3", f"exit {python}")
        command(tmp_path / "venv/bin/pip", 'printf "%s\\n" "$@" > ~/pip.txt')
        command(tmp_path / "venv/bin/ckd", 'printf "%s\\n" "$@" > ~/ckd.txt; compgen -e RAY_ > ~/ray.txt; exit 3')
        (tmp_path / "checkout").mkdir(exist_ok=True)
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        given = {"HOME": str(tmp_path), "PATH": path, **environment}
        return subprocess.run(["bash", "-c", TASK[script]], capture_output=True, text=True, env=given, check=False)

    return run


def test_the_run_is_ours_with_every_path_at_a_url_and_without_skypilots_ray(machine, tmp_path):
    envs = {name: value for name, value in TASK["envs"].items() if value} | {"CKD_URL": "s3://b/p"}
    done = machine("run", SKYPILOT_NUM_GPUS_PER_NODE="4", RAY_ADDRESS="10.0.0.1:6380", RAY_JOB_ID="1", **envs)
    assert done.returncode == 3, "the command's exit code is the job's"
    command, option, path, *words = (tmp_path / "ckd.txt").read_text().splitlines()
    assert (command, option) == ("run", "--config") and (tmp_path / "ray.txt").read_text() == ""
    config = require_shared(load(str(ROOT / path), words))
    assert config.run.name == "first" and config.run.artifacts == "s3://b/p/first/artifacts"
    assert config.teacher.base_model == TASK["envs"]["CKD_MODEL"]
    assert config.teacher.workers.max == config.student.workers.max == 4


def test_the_setup_installs_under_our_constraints_or_says_what_the_image_lacks(machine, tmp_path):
    assert machine("setup").returncode == 0
    words = (tmp_path / "pip.txt").read_text().split()
    assert words[-3:] == ["--constraint", f"{tmp_path}/checkout/constraints.txt", f"{tmp_path}/checkout"]
    for wrong, says in (({"driver": "570.86.15"}, "driver 570.86.15"), ({"python": 1}, "older than 3.11")):
        done = machine("setup", **wrong)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and says in done.stderr, done
