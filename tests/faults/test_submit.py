"""`ckd submit` against a real Ray head with its dashboard and a token.

A job from end to end, its driver killed in the middle, and nobody else gets in.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from ckd.visits.cohort import Cohort
from cluster.submit import authentication
from testbed.raycluster import CHECKOUT, cluster, until
from testbed.rows import rows, write_jsonl

pytestmark = pytest.mark.faults
VISITS = 240


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.write_text("a1" * 32)
    # A job's `python` is the one on the head's PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with cluster(
        dashboard=True, cpus=2, settings={"RAY_AUTH_TOKEN_PATH": str(token), "PATH": path, "OMP_NUM_THREADS": "1"}
    ) as one:
        one.token = token
        until(lambda: authentication(one.dashboard) == "token", 60, "the dashboard answers", 0.5)
        yield one


def words(folder, teacher):
    return [
        f"run.results={folder}/results",
        f"run.shared_mounts=[{folder}, {teacher}]",
        f"data.train={folder}/train.json",
        f"teacher.base_model={teacher}/base",
        f"teacher.adapter={teacher}/adapter",
        "teacher.dtype=float32",
        "data.shard_rows=4",
    ]


@pytest.fixture
def folder(tmp_path):
    write_jsonl(
        tmp_path / "train.json",
        [*rows(0, 160, split="train"), *rows(160, 200, split="tuning"), *rows(200, VISITS, split="held_out")],
    )
    return tmp_path


def start(head, *words, **environment):
    """A `ckd` process outside of the cluster, which knows its dashboard and has the token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    knows = {"RAY_ADDRESS": head.dashboard, "RAY_AUTH_TOKEN_PATH": str(head.token), **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *words],
        cwd=CHECKOUT,
        env={**kept, **knows},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ckd_says(head, *words, **environment):
    process = start(head, *words, **environment)
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def parts(folder):
    return {
        path.name: path for path in sorted((folder / "results/default/artifacts/embeddings").glob("part-*.parquet"))
    }


def drivers():
    """Processes that run `python -m jobs embed` in a job's folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = process.info["cmdline"] or []
        if line[1:4] == ["-m", "jobs", "embed"] and "working_dir_files" in (process.info["cwd"] or ""):
            found.append(process)
    return found


def test_a_job_whose_driver_is_killed_continues_when_it_is_submitted_again(
    head, folder, tmp_path_factory, teacher_folder
):
    same = tmp_path_factory.mktemp("undisturbed")
    (same / "train.json").write_bytes((folder / "train.json").read_bytes())
    command = [sys.executable, "-m", "jobs", "embed", *words(same, teacher_folder)]
    undisturbed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert undisturbed.returncode == 0, undisturbed.stderr

    job = ["submit", "embed", *words(folder, teacher_folder), "teacher.workers=1"]
    first = start(head, *job, "--follow")
    until(lambda: len(parts(folder)) >= 2 or first.poll() is not None, 180, "two parts are there", 0.01)
    mine = [driver for driver in drivers() if str(folder) in " ".join(driver.cmdline())]
    assert mine, first.communicate()[0]
    for driver in mine:
        driver.suspend()  # the shards would all be done before the next line has started Python
    code, said = ckd_says(head, *job)
    assert (code, " already: nothing new was submitted" in said) == (0, True), said
    for driver in mine:
        driver.kill()
    said = first.communicate(timeout=120)[0]
    assert first.returncode == 3, said
    assert "killed by signal 9" in said and "run the same command again" in said
    before = {name: path.stat().st_mtime_ns for name, path in parts(folder).items()}
    assert 2 <= len(before) < VISITS // 4, "killed in the middle"

    code, said = ckd_says(head, *job, "--follow")
    assert code == 0, said
    assert f"{len(before)} of {VISITS // 4} shards done" in said
    assert "-2, its driver on a machine with the resource on_demand" in said
    after = parts(folder)
    assert {name: after[name].stat().st_mtime_ns for name in before} == before
    assert {name: path.read_bytes() for name, path in after.items()} == {
        name: path.read_bytes() for name, path in parts(same).items()
    }
    assert Cohort.open(f"{folder}/results/default/artifacts").count() == VISITS


def test_the_jobs_exit_code_is_the_commands(head, folder, teacher_folder):
    code, said = ckd_says(head, "submit", "train-head", *words(folder, teacher_folder), "--follow")
    assert code == 2, said
    assert "no visits have been prepared there" in said and "ended with exit code 2" in said


def test_plain_ray_job_submit_works_and_refuses_paths_of_one_machine(head, folder, teacher_folder):
    def submit(*more):
        known = {"RAY_ADDRESS": head.dashboard, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token)}
        ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]
        return subprocess.run(
            [*ray, "--", "python", "-m", "jobs", "embed", *more],
            cwd=CHECKOUT,
            env={**os.environ, **known},
            capture_output=True,
            text=True,
            timeout=240,
        )

    done = submit("--config", "jobs/default.yaml")
    assert done.returncode != 0
    assert "run.results=results: a path of one machine" in done.stdout + done.stderr
    done = submit(*words(folder, teacher_folder), "data.shard_rows=160")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(parts(folder)) == 3


@pytest.mark.parametrize("token", ["wrong", None])
def test_a_client_without_the_token_is_one_line_and_exit_2(head, folder, teacher_folder, tmp_path, token):
    if token:
        (tmp_path / "token").write_text("b2" * 32)
    started = time.monotonic()
    code, said = ckd_says(
        head, "submit", "embed", *words(folder, teacher_folder), RAY_AUTH_TOKEN_PATH=str(tmp_path / "token")
    )
    assert code == 2, said
    assert said.startswith(f"ckd: cluster {head.dashboard}: ") and said.count("\n") == 1 and "docs/security.md" in said
    assert time.monotonic() - started < 60


def machines(head):
    asked = {"Authorization": f"Bearer {head.token.read_text()}"}
    nodes = requests.get(f"{head.dashboard}/api/v0/nodes", headers=asked, timeout=20).json()["data"]["result"]["result"]
    return sum(node["state"] == "ALIVE" for node in nodes)


def test_the_doctor_looks_at_every_machine_from_inside(head, folder, teacher_folder):
    head.add("spot", wait=False)  # Cluster.wait would ask with this process's token, which is not the cluster's
    until(lambda: machines(head) == 2, 60, "the second machine is up", 0.5)
    fit = [word for word in words(folder, teacher_folder) if "data.train" not in word] + [
        f"student.base_model={teacher_folder}/base"
    ]
    head.token.chmod(0o600)
    code, said = ckd_says(head, "doctor", *fit)
    assert code == 0, said
    assert "ok   nodes    2 are up and answer" in said and "todo" not in said
    assert "written here, read by every machine" in said and "every machine asks for the token" in said
    assert not list(folder.rglob(".doctor*"))
    code, said = ckd_says(
        head,
        "doctor",
        *fit,
        "teacher.workers=2",
        "teacher.gpus_per_worker=1",
        "teacher.adapter=/mnt/none",
        "run.shared_mounts=[/]",
    )
    assert code == 2 and "run.shared_mounts" in said, said
    code, said = ckd_says(head, "doctor", *fit, "teacher.workers=2", "teacher.gpus_per_worker=1")
    assert code == 2, said
    assert "todo GPUs     no machine that is up has 1" in said
