"""What a Ray of this machine is started with: a short private folder, a private token, files enough."""

import os
import stat
from pathlib import Path

import pytest

from cluster import local
from cluster.local import LONGEST_FOLDER, MachineError, fits, keep_token, require_files, settings, short_folder, token


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with the token as Ray writes it; nothing else names one."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".ray"
    folder.mkdir(mode=0o755)
    (folder / "auth_token").write_text("secret")
    (folder / "auth_token").chmod(0o644)
    yield folder
    os.environ.pop("RAY_AUTH_TOKEN", None)


def test_the_longest_folder_is_just_short_enough_for_a_socket():
    socket = "/" + "f" * (LONGEST_FOLDER - 1) + local._SOCKET
    assert len(socket) == 107
    assert fits(Path("/tmp") / ("f" * (LONGEST_FOLDER - len("/tmp/"))))
    assert not fits(Path("/tmp") / ("f" * (LONGEST_FOLDER - len("/tmp/") + 1)))


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_below_a_long_folder_another_is_chosen_that_nobody_else_can_enter_and_that_goes(tmp_path, monkeypatch, name):
    long = tmp_path / ("job-" + "1" * 80)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(long))
    with settings() as found:
        folder = Path(found["_temp_dir"])
        assert len(str(folder)) <= LONGEST_FOLDER and mode(folder) == 0o700
        (folder / "session").mkdir()
    assert not folder.exists()
    assert not list(long.iterdir())


def test_a_usual_folder_is_left_to_ray(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with settings() as found:
        assert "_temp_dir" not in found


@pytest.mark.parametrize("place", ["/proc", "relative", "/nowhere/at/all"])
def test_where_nothing_can_be_written_is_no_folder(place):
    assert not fits(Path(place, "ray"))


def test_where_no_folder_will_do_the_variable_is_named(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/proc/scratch")
    monkeypatch.setattr(local, "fits", lambda _: False)
    with pytest.raises(MachineError, match="TMPDIR=/proc/scratch: Ray needs a folder .*; set RAY_TMPDIR to one"):
        short_folder()


def test_shared_memory_that_cannot_be_written_is_replaced(monkeypatch):
    monkeypatch.setattr(local, "SHARED_MEMORY", "/proc")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with settings() as found:
        assert found["_plasma_directory"] == "/tmp"


def test_too_few_files_are_told_with_the_limit(monkeypatch):
    monkeypatch.setattr(local.resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(MachineError, match="ulimit -n is 64: Ray needs at least 1024"):
        require_files()
    for enough in (4096, local.resource.RLIM_INFINITY):
        monkeypatch.setattr(local.resource, "getrlimit", lambda _, enough=enough: (64, enough))
        require_files()


def test_a_token_that_others_can_read_becomes_its_owners(home):
    keep_token()
    assert (mode(home / "auth_token"), mode(home)) == (0o600, 0o700)
    assert (home / "auth_token").read_text() == "secret"
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_of_a_token_that_the_user_names_only_the_file_is_changed(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "auth_token"))
    keep_token()
    assert (mode(home / "auth_token"), mode(home)) == (0o600, 0o755)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "other"))
    with pytest.raises(MachineError, match="RAY_AUTH_TOKEN_PATH=.*other: cannot be read"):
        keep_token()


@pytest.mark.parametrize("place", [None, "/proc", "/nowhere"])
def test_without_a_token_one_is_made_that_no_file_holds(home, monkeypatch, place):
    (home / "auth_token").unlink()
    if place:
        monkeypatch.setenv("HOME", place)
    keep_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not list(home.iterdir())


def test_the_token_is_found_as_ray_finds_it(home, monkeypatch):
    assert token() == "secret"
    (home / "auth_token").write_text("other\n")
    assert token() == "other"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "nowhere"))
    assert token() == ""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "named")
    assert token() == "named"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token() == ""


def test_where_no_token_is_wanted_none_is_touched(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    keep_token()
    assert mode(home / "auth_token") == 0o644
