"""A folder for others is one attempt's, whole, however many publish at once; somebody else's files stay."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckd.errors import ConfigError, IncompleteError
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import join, read_bytes, write_bytes
from ckd.store.handover import FORMAT, publish, standing, sweep

FIELDS = {FORMAT: "export of a student"}


def made(folder, content):
    folder.mkdir()
    for name in ("a.bin", "b.bin", "c.bin"):
        (folder / name).write_bytes(content * 1000)
    return str(folder)


def test_of_publishers_at_once_one_stays_whole_and_nothing_is_left_beside(tmp_path):
    place = tmp_path / "out" / "model"
    for turn in range(12):
        sources = [made(tmp_path / f"{turn}-{n}", bytes([turn, n])) for n in range(4)]
        together = threading.Barrier(4)

        def one(source, together=together):
            together.wait()
            publish(source, str(place), FIELDS, {})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, sources))
        FolderArtifact(str(place), FIELDS).verify()
        found = {read_bytes(str(place / name)) for name in ("a.bin", "b.bin", "c.bin")}
        assert len(found) == 1 and found <= {bytes([turn, n]) * 1000 for n in range(4)}
        assert [path.name for path in place.parent.iterdir()] == ["model"]


def test_what_somebody_puts_there_meanwhile_stays(tmp_path, monkeypatch):
    place, commit = tmp_path / "model", FolderArtifact.commit_from

    def slow(self, local, extra=None):
        commit(self, local, extra)
        place.mkdir()
        (place / "mine.txt").write_text("mine")

    monkeypatch.setattr(FolderArtifact, "commit_from", slow)
    with pytest.raises(ConfigError, match="holds files that are no export of a student"):
        publish(made(tmp_path / "local", b"x"), str(place), FIELDS, {})
    assert (place / "mine.txt").read_text() == "mine" and [p.name for p in place.iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local", "model"]


def test_what_killed_attempts_left_is_swept_and_nothing_else(tmp_path):
    for name in (".model.1a.unfinished", ".model.2b.old", ".model.unfinished", ".models.1a.old", "model.old"):
        (tmp_path / name).mkdir()
    sweep(str(tmp_path / "model"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".models.1a.old", "model.old"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    publish(made(tmp_path / "1", b"1"), str(tmp_path / "real"), FIELDS, {})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    publish(made(tmp_path / "2", b"2"), str(tmp_path / "link"), FIELDS, {})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a.bin").read_bytes() == b"2" * 1000


def test_two_at_a_url_whose_files_mix_are_noticed_by_the_one_that_ends_last(root, tmp_path, monkeypatch):
    place, commit = join(root, "model"), FolderArtifact.commit_from

    def crossed(self, local, extra=None):
        commit(self, local, extra)
        write_bytes(join(place, "b.bin"), b"another attempt's")

    publish(made(tmp_path / "1", b"1"), place, FIELDS, {})
    monkeypatch.setattr(FolderArtifact, "commit_from", crossed)
    with pytest.raises(IncompleteError, match=r"b\.bin: missing or changed .*another command has published"):
        publish(made(tmp_path / "2", b"2"), place, FIELDS, {})
    monkeypatch.setattr(FolderArtifact, "commit_from", commit)
    publish(str(tmp_path / "2"), place, FIELDS, {})
    assert standing(place, FIELDS[FORMAT]) and read_bytes(join(place, "b.bin")) == b"2" * 1000
