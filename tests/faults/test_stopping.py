"""Ctrl-C, SIGTERM and SIGHUP to real commands on a local Ray: what is kept, one line, the exit code, no traceback."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.raycluster import CHECKOUT, stop, until
from tests.faults.fake_embed import CODE, SHARDS, assert_equal_and_clean, parts
from tests.faults.test_student_elastic import Driven
from tests.student.student_cohort import make_base

pytestmark = pytest.mark.faults


class Command:
    """A command without a cluster, in a process group of its own as a terminal's are; `said` grows by every start."""

    def __init__(self, log: Path, *words: str) -> None:
        self.log, self.words = log, words

    def start(self) -> subprocess.Popen:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        where = {"cwd": CHECKOUT, "env": {**kept, "PYTHONPATH": str(CHECKOUT)}, "stderr": subprocess.STDOUT}
        with self.log.open("a") as out:
            self.process = subprocess.Popen((sys.executable, *self.words), stdout=out, start_new_session=True, **where)
        return self.process

    def end(self, number: int, group: bool) -> tuple[int, str]:
        """Exit code and last line. A terminal signals its whole group, Kubernetes one process."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        code, said = self.process.wait(timeout=120), self.log.read_text()
        assert not {"Traceback", "***", "Aborted"} & set(said.split()), said[-3000:]
        return code, said.splitlines()[-1]


@pytest.fixture
def started():
    """Commands that end with the test."""
    commands: list[Command] = []
    yield commands
    for one in commands:
        stop(one.process)


def trained_until(run: Driven, one: Command, step: int, number: int, group: bool) -> tuple[int, int]:
    """Exit code, and the step that is said to be saved, of a training that is stopped after `step`."""
    run.driver = one.start()
    run.wait(lambda: run.step() > step, 120, "two workers train")
    code, line = one.end(number, group)
    return code, int(re.search(r"stopped by .*; step (\d+) of the student is saved; run the same", line)[1])


def test_a_training_on_ranks_saves_its_step_and_goes_on_from_it(tmp_path, started):
    run = Driven(tmp_path, make_base(tmp_path / "base", hidden=32), workers=2, checkpoint_steps=10_000)
    one = Command(run.log, "-m", "tests.faults.slow_student", "--config", str(run.file))
    started.append(one)
    code, first = trained_until(run, one, 10, signal.SIGINT, group=True)
    assert code == 130 and first > 10
    code, second = trained_until(run, one, first + 10, signal.SIGTERM, group=True)  # as Slurm and `timeout` do
    assert code == 3 and second > first
    assert f"continuing after step {first}\n" in run.log.read_text()
    places = [Path(run.config.run.artifacts_root) / f"checkpoints/step-{step:07d}" for step in (first, second)]
    assert all((place / "artifact.json").exists() for place in places)


def test_the_teachers_pass_keeps_its_parts(folder, undisturbed, started):
    one = Command(folder / "output.txt", "-c", CODE, str(folder), "0.4", "FakeEmbedWorker", "teacher.workers=2")
    started.append(one)
    job = one.start()
    until(lambda: job.poll() is not None or len(parts(folder)) > SHARDS, 90, "the first parts")
    code, line = one.end(signal.SIGHUP, group=True)
    assert code == 3 and line.startswith("ckd: stopped by SIGHUP") and len(parts(folder)) < 2 * SHARDS
    assert one.start().wait(timeout=90) == 0
    assert_equal_and_clean(folder, undisturbed)
