"""What a command finds around it: standard streams, a home, a user's name. What can be made good is, before any library
looks; the rest is told by `ckd doctor`."""

import io
import os
import pwd
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ckd.errors import ConfigError
from ckd.section import MADE_HOME
from ckd.store.folders import can_be_made, private_folder
from cluster.local import LEAST_FILES, SHARED_MEMORY, can_write


def settle() -> None:
    """Make standard streams, home and user's name good for this process and its children.

    Raises ConfigError where no temporary folder can be written.
    """
    _open_streams()
    if not temporary():
        raise ConfigError(
            f"TMPDIR={os.environ.get('TMPDIR', '')}: no temporary folder can be written, nor can /tmp and /var/tmp; "
            "set TMPDIR to one"
        )
    _name_user()
    home = _find_home()
    if not can_be_made(Path(home)):
        # Libraries that would stop, or warn at each start, where they cannot write below it.
        for name in ("MPLCONFIGDIR", "TRITON_CACHE_DIR"):
            os.environ.setdefault(name, str(Path(private_folder("home"), name)))


def wants() -> Iterator[str]:
    """What is missing around this process and what to do, each with its variable or limit."""
    home = os.environ.get("HOME", "")
    if Path(home).name.startswith(MADE_HOME):
        yield f"HOME is not set and user {os.getuid()} has none, so {home} is taken; set HOME to a folder that stays"
    elif not can_be_made(Path(home)):
        yield f"HOME={home} cannot be written; set HOME, or XDG_CACHE_HOME and HF_HOME, to where models may lie"
    named = os.environ.get("TMPDIR", "")
    if named and Path(temporary()) != Path(named).absolute():
        yield f"TMPDIR={named} cannot be written, so {temporary()} is taken; set TMPDIR to a folder that can"
    if not can_write(SHARED_MEMORY):
        yield f"{SHARED_MEMORY} cannot be written, so Ray's objects go to a disk; mount it (docker: --shm-size)"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= files < LEAST_FILES:
        yield f"ulimit -n is {files}; raise it to 65536 (LimitNOFILE= of a service): Ray opens a thousand files"
    if not _speaks_unicode():
        yield f"standard output is {sys.stdout.encoding}: other characters come as \\u…; set LC_ALL=C.UTF-8"


def temporary() -> str:
    """This machine's temporary folder; "" where none can be written."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return ""


def _open_streams() -> None:
    """A closed stream takes what is written and loses it; else the next file that is opened would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  it stays open
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error has it: a name is no reason to stop


def _find_home() -> str:
    home = os.environ.get("HOME", "")
    if not home:
        with suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
        os.environ["HOME"] = home = home or private_folder("home")
    return home


def _name_user() -> None:
    """Containers run under ids that have no name, for which libraries stop (`getpass.getuser`)."""
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _speaks_unicode() -> bool:
    try:
        "ä→".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
