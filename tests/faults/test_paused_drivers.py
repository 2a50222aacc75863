"""A driver is paused (SIGSTOP) at a random call of the store while another works on the same run, and goes on after it.

All artifacts are those of one of the two; the other ends with the same or says in a line why it does not go on. With
SEEDS=200 as many pauses are tried instead of the few of the suite.
"""

import multiprocessing
import os
import random
import time
from contextlib import suppress
from io import StringIO
from pathlib import Path

import psutil
import pytest

from ckd.configfile import load
from ckd.errors import IncompleteError
from ckd.store.files import read_bytes
from ckd.visits.cohort import Cohort
from jobs import verify
from jobs.console import Console
from tests.faults.fake_embed import parts
from tests.faults.paused_driver import drive, make_inputs, settings

pytestmark = pytest.mark.faults

SEEDS = int(os.environ.get("SEEDS", "8"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paused")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def processes():
    """Where drivers are forked from: a process that has imported everything and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.paused_driver", "transformers", "ckd.teacher.embed"])
    return context


@pytest.fixture(scope="module")
def undisturbed(inputs, processes):
    """Input -> the parts of a run that nobody disturbed; and how many points a driver passes."""
    found = {}
    for data in ("a", "b"):
        folder = inputs / f"undisturbed-{data}"
        folder.mkdir()
        code, said = ended(started(processes, folder, data), folder / f"{data}.txt")
        assert code == 0, said
        found[data] = parts(folder)
    return found, int(said.split()[-2])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_driver_that_is_paused_while_another_works_leaves_one_run_or_a_refusal(seed, inputs, processes, undisturbed):
    wanted, points = undisturbed
    rng = random.Random(seed)
    folder, at, other = inputs / f"seed-{seed}", rng.randrange(1, points + 1), rng.choice("ab")
    folder.mkdir()
    paused = started(processes, folder, "a", at, log="paused.txt")
    stopped = until_stopped(paused)
    working = started(processes, folder, other, log="other.txt")
    if stopped:
        until_it_waits_or_ends(working, folder / "other.txt")
        psutil.Process(paused.pid).resume()
    both = {"paused": paused, "other": working}
    answers = {driver: ended(process, folder / f"{driver}.txt") for driver, process in both.items()}
    assert_one_run_or_a_refusal(folder, answers, {"paused": "a", "other": other}, wanted)


def assert_one_run_or_a_refusal(folder, answers, given, wanted):
    """`answers`: driver -> exit code and what it said; `given`: driver -> its input."""
    for code, said in answers.values():
        assert code in (0, 2, 3) and "Traceback" not in said, said
        assert code == 0 or len([line for line in said.splitlines() if line.startswith("ckd: ")]) == 1, said
    finished = {given[driver] for driver, (code, _) in answers.items() if code == 0}
    committed = "b" if len(Cohort.open(f"{folder}/results/t/artifacts").shards) == 5 else "a"
    assert committed in finished, (committed, answers)
    assert parts(folder) == wanted[committed], answers
    stream = StringIO()
    with pytest.raises(IncompleteError):  # no head, no student
        verify.run(load(None, settings(folder, committed)), Console(stream))
    assert "problem:" not in stream.getvalue(), stream.getvalue()


def started(processes, folder, data, stop_at=0, log=None):
    said = folder / (log or f"{data}.txt")
    said.touch()
    process = processes.Process(target=drive, args=(str(folder), data, stop_at, str(said)))
    process.start()
    return process


def until_stopped(process):
    """Wait until the process has stopped itself; False when it ended instead."""
    ends = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < ends:
        with suppress(psutil.NoSuchProcess):  # it ended since
            if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
                return True
        time.sleep(0.01)
    assert not process.is_alive(), "neither stopped nor ended"
    return False


def until_it_waits_or_ends(process, log):
    """Until the other driver has ended, or said that it waits for the paused one."""
    ends = time.monotonic() + 60
    while process.is_alive() and "waiting: " not in log.read_text():
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.01)


def ended(process, log: Path):
    process.join(60)
    assert process.exitcode is not None, read_bytes(str(log)).decode()
    return process.exitcode, log.read_text()
