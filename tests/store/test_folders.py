"""Folders between this machine and s3://: up footer last, down whole and checked, made once per machine."""

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckd.errors import ArtifactError, UnreachableError
from ckd.store.artifacts import FolderArtifact
from ckd.store.copies import fetched_folder, made_once
from ckd.store.files import delete, join, write_bytes
from ckd.store.folders import upload_folder
from tests.store.object_store import no_fault


def cut(number, method, path):
    return "cut" if method == "PUT" else None


def test_a_compressed_file_is_copied_as_it_is(root, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n"))
    upload_folder(str(tmp_path / "tables"), join(root, "tables"))
    write_bytes(join(root, "tables/b.csv.gz"), (tmp_path / "tables" / "a.csv.gz").read_bytes())
    copy = Path(fetched_folder(join(root, "tables")))
    assert {gzip.decompress((copy / name).read_bytes()) for name in ("a.csv.gz", "b.csv.gz")} == {b"a,b\n"}


def test_a_folder_goes_up_footer_last_and_comes_down_whole(root, gate, tmp_path):
    local, artifact = tmp_path / "student", FolderArtifact(join(root, "student"), {"seed": 1})
    (local / "inner").mkdir(parents=True)
    (local / "a.bin").write_bytes(b"weights")
    (local / "inner" / "b.bin").write_bytes(b"")
    before = len(gate.seen)
    artifact.commit_from(str(local), {"step": 3})
    puts = [path for method, path in gate.seen[before:] if method == "PUT"]
    assert "artifact.json" in puts[-1] and len(puts) == 3
    artifact.verify()
    assert artifact.is_done() and artifact.load()["extra"] == {"step": 3}
    copy = fetched_folder(artifact.folder)
    assert sorted(str(p.relative_to(copy)) for p in Path(copy).rglob("*") if p.is_file()) == [
        "a.bin",
        "artifact.json",
        "inner/b.bin",
    ]
    assert fetched_folder(artifact.folder) == copy and fetched_folder(str(local)) == str(local)
    (local / "a.bin").write_bytes(b"weightz")
    artifact.commit_from(str(local))
    other = fetched_folder(artifact.folder)
    assert other != copy and Path(other, "a.bin").read_bytes() == b"weightz"


def test_a_folder_whose_upload_breaks_off_is_not_committed(root, gate, tmp_path):
    local, artifact = tmp_path / "student", FolderArtifact(join(root, "student"), {})
    local.mkdir()
    (local / "a.bin").write_bytes(b"old")
    artifact.commit_from(str(local))
    (local / "a.bin").write_bytes(b"new")
    gate.fault = cut
    with pytest.raises(UnreachableError):
        artifact.commit_from(str(local))
    gate.fault = no_fault
    assert artifact.load() is None, "what is half new does not look whole"
    upload_folder(str(local), artifact.folder)
    artifact.verify()


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", "a/../../escaped", "a\\b", ""])
def test_a_listed_name_that_leads_out_of_its_folder_is_refused(root, tmp_path, name):
    for folder in (join(root, "evil"), str(tmp_path / "evil")):
        facts = {"size": 1, "sha256": "0" * 64}
        write_bytes(join(folder, "artifact.json"), json.dumps({"fields": {}, "files": {name: facts}}).encode())
        with pytest.raises(ArtifactError, match="no plain relative name"):
            FolderArtifact(folder, {}).verify()
    with pytest.raises(ArtifactError, match="no plain relative name"):
        fetched_folder(join(root, "evil"))
    assert not list(tmp_path.rglob("escaped"))


def test_a_folder_with_a_missing_or_changed_file_is_not_fetched(root, tmp_path):
    local, artifact = tmp_path / "head", FolderArtifact(join(root, "head"), {})
    local.mkdir()
    (local / "a.bin").write_bytes(b"weights")
    artifact.commit_from(str(local))
    write_bytes(join(artifact.folder, "a.bin"), b"weightz")
    with pytest.raises(ArtifactError, match="a.bin: changed"):
        fetched_folder(artifact.folder)
    delete(join(artifact.folder, "a.bin"))
    with pytest.raises(ArtifactError, match="a.bin: missing"):
        fetched_folder(artifact.folder)
    with pytest.raises(ArtifactError, match="no file there"):
        fetched_folder(join(root, "nowhere"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_several_that_ask_at_once_get_what_the_first_made_and_a_killed_ones_remains_are_replaced(tmp_path, kind):
    target, made, counting = tmp_path / "cache" / "a", [], threading.Lock()
    (target.with_suffix(".tmp")).mkdir(parents=True)
    (target.with_suffix(".tmp") / "half").write_bytes(b"half")

    def make(unfinished):
        with counting:
            made.append(unfinished)
        assert not unfinished.exists() and not target.exists()
        if kind == "folder":
            unfinished.mkdir()
            unfinished = unfinished / "whole"
        unfinished.write_bytes(b"whole")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: made_once(target, make), range(4)))
    assert len(made) == 1 and (target if kind == "file" else target / "whole").read_bytes() == b"whole"
    assert sorted(path.name for path in target.parent.iterdir()) == ["a", "a.lock"]


def test_what_cannot_be_made_leaves_nothing_and_is_tried_again(tmp_path):
    def refuse(unfinished):
        unfinished.write_bytes(b"half")
        raise ArtifactError("not this one")

    with pytest.raises(ArtifactError, match="not this one"):
        made_once(tmp_path / "a", refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    made_once(tmp_path / "a", lambda unfinished: unfinished.write_bytes(b"whole"))
    assert (tmp_path / "a").read_bytes() == b"whole"
