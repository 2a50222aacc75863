"""Commands where others run them: no home, a user without a name, closed or full outputs, read-only folders."""

import ast
import getpass
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ckd.section import place
from ckd.store import folders
from ckd.store.folders import cache_folder, private_folder
from jobs import surroundings
from testbed.raycluster import CHECKOUT
from testbed.rows import row, write_jsonl

ROOT = os.geteuid() == 0
STRANGER = ("setpriv", "--reuid", "45678", "--regid", "45678", "--clear-groups")
SESSION = """
from cluster.session import session
import ray
def look():
    import ckd, cluster, getpass, jobs, os
    return [module.__file__ for module in (ckd, cluster, jobs)], getpass.getuser()
from jobs.surroundings import settle
settle()
with session(cpus=1):
    print(ray.get(ray.remote(look).remote()), ray._private.worker._global_node.get_session_dir_path())
"""


@pytest.fixture
def scratch(tmp_path):
    """A folder that every user can enter, with modules of the user's own that have our names."""
    folder = Path(os.path.realpath(private_folder("tests"))).parent / f"ckd-scratch-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "ckd").mkdir()
    for name in ("cluster.py", "jobs.py", "torch.py", "ckd/__init__.py"):
        (folder / name).write_text("raise RuntimeError('not ours')")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def nowhere(monkeypatch):
    """As if nothing had been looked at before; what is set here goes again."""
    for name in ("MPLCONFIGDIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "LOGNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    folders.private_folder.cache_clear()


def command(*words, before=(), after="", cwd=None, **environment):
    """Exit code and the two outputs of `ckd`, started without the tests' own streams."""
    known = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")}
    line = " ".join([*before, sys.executable, "-P", "-m", "jobs", *words, after])
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**known, **environment}, cwd=cwd or CHECKOUT
    )
    return done.returncode, done.stdout, done.stderr


def test_a_user_without_home_and_name_gets_a_private_one(nowhere, monkeypatch, tmp_path):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(surroundings.pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(surroundings.tempfile, "tempdir", str(tmp_path))
    surroundings.settle()
    home = tmp_path / f"ckd-home-{os.geteuid()}"
    assert os.environ["HOME"] == str(home) and stat.S_IMODE(home.stat().st_mode) == 0o700
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert cache_folder() == home / ".cache" / "ckd"
    with pytest.raises(ValueError, match="no home folder is known for ~"):
        place("~/results")  # which would be lost with the temporary folder
    assert [line for line in surroundings.wants() if line.startswith("HOME is not set") and "set HOME" in line]


@pytest.mark.parametrize("made", ["a link", "open to others"])
def test_a_folder_that_somebody_prepared_is_not_taken(nowhere, monkeypatch, tmp_path, made):
    monkeypatch.setattr(surroundings.tempfile, "tempdir", str(tmp_path))
    theirs = tmp_path / f"ckd-home-{os.geteuid()}"
    theirs.mkdir(mode=0o777) if made == "open to others" else theirs.symlink_to("/tmp")
    if made == "open to others":
        theirs.chmod(0o777)
    mine = Path(private_folder("home"))
    assert mine not in (theirs, theirs.resolve()) and stat.S_IMODE(mine.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_written_is_kept_and_its_cache_lies_elsewhere(nowhere, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    home = str(tmp_path / "file")  # no folder: not even root can write below it
    monkeypatch.setenv("HOME", home)
    surroundings.settle()
    assert os.environ["HOME"] == home
    assert os.environ["MPLCONFIGDIR"].startswith(private_folder("home"))
    assert cache_folder() == Path(private_folder("cache"))
    [line] = [line for line in surroundings.wants() if line.startswith("HOME=")]
    assert line.startswith(f"HOME={home} cannot be written; set HOME, or XDG_CACHE_HOME and HF_HOME")


def test_what_else_is_missing_is_named_with_its_variable_or_limit(nowhere, monkeypatch, tmp_path):
    assert list(surroundings.wants()) == []
    monkeypatch.setenv("TMPDIR", "/nowhere/tmp")
    monkeypatch.setattr(surroundings, "SHARED_MEMORY", "/nowhere/shm")
    monkeypatch.setattr(surroundings.resource, "getrlimit", lambda _: (64, 64))
    monkeypatch.setattr(sys, "stdout", open(tmp_path / "out", "w", encoding="ascii"))
    said = list(surroundings.wants())
    sys.stdout.close()
    assert [line.split(" ")[0] for line in said] == ["TMPDIR=/nowhere/tmp", "/nowhere/shm", "ulimit", "standard"]


def test_closed_outputs_lose_what_is_said_and_nothing_else(tmp_path):
    path = write_jsonl(tmp_path / "rows.json", [row(1)])
    assert command("validate", path, after=">&- 2>&- <&-") == (0, "", "")
    assert command("validate", "/nowhere.json", after="2>&-")[::2] == (2, "")
    code, _, said = command("validate", path, after=">/dev/full")
    assert (code, said.count("\n"), "standard output: no space left" in said) == (3, 1, True)
    code, out, said = command("status", f"run.results={tmp_path}/r", after="| true; exit ${PIPESTATUS[0]}")
    assert (code, out, said) == (141, "", "")


def test_a_name_that_the_output_cannot_show_is_no_reason_to_stop(tmp_path):
    words = ("synth", "--patients", "1", "--out", f"{tmp_path}/ärzte")
    code, out, said = command(*words, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (code, said) == (0, "")
    assert f"in {tmp_path}/\\xe4rzte" in out


@pytest.mark.skipif(not ROOT, reason="only root may mount")
def test_where_no_temporary_folder_can_be_written_the_variable_is_named(tmp_path):
    mounts = "".join(f"mount -t tmpfs -o ro none {place} && " for place in ("/tmp", "/var/tmp"))
    code, _, said = command(
        "status", before=("unshare", "-m", "bash", "-c", f"'{mounts} cd /proc && TMPDIR=/proc"), after="'"
    )
    assert code == 2
    assert said == (
        "ckd: TMPDIR=/proc: no temporary folder can be written, nor can /tmp and /var/tmp; set TMPDIR to one\n"
    )


def test_in_a_folder_with_a_cluster_of_the_users_own_ours_is_started(scratch):
    (scratch / "jobs.py").unlink()  # Python itself takes it for the one that -m names
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "status", "run.results=r"],
        capture_output=True,
        text=True,
        cwd=scratch,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "metrics      missing" in done.stdout


def test_ours_runs_in_workers_of_a_user_without_home_whose_tmpdir_is_long_and_shared_memory_read_only(scratch):
    """One local Ray for all of it: a session costs seconds."""
    long = scratch / ("job-" + "1" * 80)
    long.mkdir()
    long.chmod(0o777)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for name in ("HOME", "USER", "LOGNAME"):
        kept.pop(name, None)
    reaches = ROOT and subprocess.run([*STRANGER, "sh", "-c", f"{sys.executable} -c ''"]).returncode == 0
    # Else Python lies in root's home.
    before = [*STRANGER] if reaches else []
    if ROOT:
        before = ["unshare", "-m", "bash", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "-", *before]
    done = subprocess.run(
        [*before, sys.executable, "-P", "-c", SESSION],
        capture_output=True,
        text=True,
        cwd=scratch,
        env={**kept, "TMPDIR": str(long), "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    places, user = ast.literal_eval(done.stdout.rpartition(") ")[0] + ")")
    assert places == [str(CHECKOUT / name / "__init__.py") for name in ("ckd", "cluster", "jobs")]
    if reaches:
        assert user == "uid-45678"
    session = Path(done.stdout.split()[-1])
    assert not session.exists() and len(str(session.parent)) < 40
    assert not list(long.glob("ray*"))
