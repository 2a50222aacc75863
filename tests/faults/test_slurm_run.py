"""cluster/deploy/slurm.sbatch with a real Ray on two nodes of this machine: warned, put back, continued."""

import json
import signal
import sys

import psutil
import pytest

from testbed.fake_slurm import FakeSlurm
from testbed.raycluster import CHECKOUT, SETTINGS, until
from tests.faults.fake_embed import CODE, SHARDS, assert_equal_and_clean, parts, starts

pytestmark = pytest.mark.faults
BIN = {
    "ckd": f'exec "{sys.executable}" -c "{CODE}" "$@"',
    "ray": f'exec "{sys.executable}" -m ray.scripts.scripts "$@"',
    "python": f'exec "{sys.executable}" "$@"',
}


def test_a_run_that_slurm_takes_down_and_starts_again_ends_as_undisturbed(folder, undisturbed):
    place = folder / "slurm" / "bin"
    place.mkdir(parents=True)
    for name, text in BIN.items():
        (place / name).write_text(f"#!/bin/bash\n{text}\n")
        (place / name).chmod(0o755)
    environment = {**SETTINGS, "PYTHONPATH": str(CHECKOUT), "CKD_VENV": str(place.parent)}
    job = FakeSlurm(place.parent, CHECKOUT / "cluster/deploy/slurm.sbatch", nodes=2, **environment)
    words = (str(folder), "0.8", "FakeEmbedWorker", "teacher.workers=2", "teacher.gpus_per_worker=0")

    job.start(*words)
    until(lambda: job.process.poll() is not None or len(parts(folder)) >= SHARDS + 3, 120, "three parts of embeddings")
    assert job.process.poll() is None, job.log
    before = set(parts(folder))
    job.signal(signal.SIGUSR1)
    assert job.wait(60) >= 3 and job.said("scontrol") == [["requeue", job.id]], job.log
    assert len({start["node"] for start in starts(folder)}) == 2, "both nodes worked"

    assert job.start(*words).wait(150) == 0, job.log
    assert_equal_and_clean(folder, undisturbed)
    assert before <= set(parts(folder)) and "of 12 shards done" in job.log
    assert job.said("scontrol") == [["requeue", job.id]] and "Traceback" not in job.log
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if job.id in json.dumps(p.info["cmdline"])]
    assert left == [], "no process of the job is left"
