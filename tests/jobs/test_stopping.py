"""Ctrl-C, SIGTERM and SIGHUP: one line, the right exit code, what was running is kept where it can be."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ckd.threads import thread_pool
from jobs import stopping, validate
from jobs.cli import main

CODES = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 3, "SIGTERM"), (signal.SIGHUP, 3, "SIGHUP")]


def handlers():
    return [signal.getsignal(number) for number in stopping.WHO]


@pytest.mark.parametrize(("number", "code", "name"), CODES)
def test_a_command_that_is_stopped_says_so_in_one_line(monkeypatch, capfd, number, code, name):
    before = handlers()
    monkeypatch.setattr(validate, "run", lambda *_: (os.kill(os.getpid(), number), time.sleep(30)))
    assert main(["validate", "FILE"]) == code
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"ckd: stopped by {name}") and "run the same command again" in said[0]
    assert handlers() == before


def test_what_fails_because_its_processes_were_stopped_too_is_no_traceback(monkeypatch, capfd):
    def stopped_with_its_helpers(*_):
        with stopping.saving(lambda: "nothing"):
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("the raylet died")

    monkeypatch.setattr(validate, "run", stopped_with_its_helpers)
    assert main(["validate", "FILE"]) == 3
    assert "stopped by SIGTERM" in capfd.readouterr().err.splitlines()[-1]


def test_a_block_that_saves_is_not_interrupted_and_says_what_it_kept():
    steps = []
    saved = pytest.raises(stopping.StoppedError, match="step 3 is saved")
    with saved as raised, stopping.saving(lambda: f"step {len(steps)} is saved") as asked:
        while not asked():
            steps.append("whole")
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGHUP)  # as systemd and a closing terminal do
    assert raised.value.exit_code == 3


def test_ctrl_c_once_more_ends_at_once_but_not_the_same_press_twice():
    code = (
        "import os, signal, time; from jobs.stopping import saving\n"
        "with saving(lambda: ''):\n"
        "    for pause in (0, 0.5, 30):\n"
        "        os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT); time.sleep(pause)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    first, second = done.stderr.splitlines()
    assert done.returncode == 130 and "Ctrl-C now ends at once" in first and "ended at once" in second


def test_a_signal_that_the_command_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stopping.stopping() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_threads_at_work_are_not_waited_for_when_the_command_is_stopped_but_after_an_error_they_are():
    release, ended = threading.Event(), []

    def work(number):
        ended.append((release.wait(20), number))

    with pytest.raises(KeyboardInterrupt), thread_pool(1) as pool:
        pool.map(work, range(100))
        raise stopping.StoppedError(signal.SIGINT)
    assert not ended
    release.set()
    with pytest.raises(ValueError, match="mine"), thread_pool(1) as pool:
        pool.submit(work, "last")
        raise ValueError("mine")
    assert (True, "last") in ended and len(ended) <= 2, "what waited was dropped"
