"""The store: atomic commit, fingerprints that name the field, damage that is noticed."""

import os
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.errors import ArtifactError
from ckd.store import artifacts
from ckd.store.artifacts import FolderArtifact, Stage
from ckd.store.files import list_files, read_bytes, write_bytes, write_file


def table(n):
    return pa.table({"visit_id": [f"v{i}" for i in range(n)]})


def test_a_part_is_done_only_with_the_same_fingerprint_and_the_same_input(tmp_path):
    Stage(str(tmp_path), "embeddings", {"model": "a", "max_length": 8}).write(0, table(3), rows=3, input_hash="x")
    assert Stage(str(tmp_path), "embeddings", {"max_length": 8, "model": "a"}).is_done(0, rows=3, input_hash="x")
    assert not Stage(str(tmp_path), "embeddings", {"model": "a", "max_length": 8}).is_done(1, rows=3, input_hash="x")
    with pytest.raises(ArtifactError, match="max_length=8, this run has max_length=9"):
        Stage(str(tmp_path), "embeddings", {"model": "a", "max_length": 9}).is_done(0, rows=3, input_hash="x")
    with pytest.raises(ArtifactError, match="input shard"):
        Stage(str(tmp_path), "embeddings", {"model": "a", "max_length": 8}).is_done(0, rows=3, input_hash="y")


class Shard(NamedTuple):
    index: int
    rows: int
    text_hash: str
    content_hash: str = ""


def test_missing_shards_are_those_without_a_part_and_required_ones_name_the_command(tmp_path):
    stage, shards = Stage(str(tmp_path), "s", {}), [Shard(0, 3, "x"), Shard(1, 2, "y"), Shard(2, 1, "z", "w")]
    stage.write(1, table(2), rows=2, input_hash="y")
    stage.write(2, table(1), rows=1, input_hash="w")
    assert stage.missing(shards[:2]) == shards[:1]
    assert stage.missing(shards[2:], lambda shard: shard.content_hash) == []
    stage.require(shards[1:2], "ckd embed")
    with pytest.raises(ArtifactError, match=r"/s: 1 of 2 shards are missing \(first: 0\); run 'ckd embed' first"):
        stage.require(shards[:2], "ckd embed")
    with pytest.raises(ArtifactError, match="input shard"):
        stage.missing(shards[2:])


def test_a_part_with_the_wrong_number_of_rows_is_not_written(tmp_path):
    stage = Stage(str(tmp_path), "embeddings", {})
    with pytest.raises(ArtifactError, match="3 rows computed, the shard has 4"):
        stage.write(0, table(3), rows=4, input_hash="x")
    assert stage.indices() == []


def test_parts_written_twice_are_byte_equal(tmp_path):
    stage = Stage(str(tmp_path), "s", {"a": 1})
    stage.write(0, table(5), rows=5, input_hash="x")
    first = read_bytes(stage.path(0))
    stage.write(0, table(5), rows=5, input_hash="x")
    assert read_bytes(stage.path(0)) == first


def test_an_exception_while_writing_leaves_the_old_file_and_no_temp_file(tmp_path):
    path = str(tmp_path / "a.txt")
    write_bytes(path, b"old")

    def fail(stream):
        stream.write(b"half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError):
        write_file(path, fail)
    assert read_bytes(path) == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_writer_killed_in_the_middle_leaves_nothing_under_the_final_name(tmp_path):
    script = textwrap.dedent(f"""
        import os, signal
        from ckd.store.files import write_file
        def half(stream):
            stream.write(b"x" * 1000); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)
        write_file({str(tmp_path / "part-00000.parquet")!r}, half)
    """)
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert list_files(str(tmp_path)) == []
    assert Stage(str(tmp_path.parent), tmp_path.name, {}).indices() == []


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not parquet at all"])
def test_a_damaged_part_is_an_error_that_says_what_to_do(tmp_path, damage):
    stage = Stage(str(tmp_path), "s", {})
    stage.write(0, table(2), rows=2, input_hash="x")
    write_bytes(stage.path(0), damage)
    with pytest.raises(ArtifactError, match="part-00000.parquet.*delete it and run the same command again"):
        stage.is_done(0, rows=2, input_hash="x")


def test_a_foreign_parquet_file_is_no_part(tmp_path):

    stage = Stage(str(tmp_path), "s", {})
    (tmp_path / "s").mkdir()
    pq.write_table(table(2), stage.path(0))
    with pytest.raises(ArtifactError, match="damaged, or not one of this project"):
        stage.footer(0)


def test_a_folder_artifact_notices_a_changed_file(tmp_path):
    artifact = FolderArtifact(str(tmp_path), {"seed": 1})
    assert not artifact.is_done()
    write_bytes(str(tmp_path / "w.bin"), b"weights")
    artifact.commit(["w.bin"], {"note": 1})
    artifact.verify()
    before = artifact.identity()
    with pytest.raises(ArtifactError, match="seed=1, this run has seed=2"):
        FolderArtifact(str(tmp_path), {"seed": 2}).is_done()
    write_bytes(str(tmp_path / "w.bin"), b"weightz")
    with pytest.raises(ArtifactError, match=r"w\.bin: missing or changed"):
        artifact.verify()
    artifact.commit(["w.bin"])
    assert artifact.identity() != before


def test_versions_of_libraries_are_recorded_and_refuse_nothing(tmp_path, monkeypatch):
    part, folder = (
        Stage(str(tmp_path), "s", {"a": 1}, ["torch", "nowhere"]),
        FolderArtifact(str(tmp_path / "f"), {"a": 1}),
    )
    part.write(0, table(3), rows=3, input_hash="x")
    assert part.footer(0).made_with == {"nowhere": None, "torch": version("torch")}
    first = read_bytes(part.path(0))
    part.write(0, table(3), rows=3, input_hash="x")
    assert read_bytes(part.path(0)) == first, "the same versions, the same bytes"
    folder.commit([])
    identity = folder.identity()
    monkeypatch.setattr(artifacts, "versions", lambda names: dict.fromkeys(names, "9.9"))
    part.write(0, table(3), rows=3, input_hash="x")
    assert part.footer(0).made_with["torch"] == "9.9" and read_bytes(part.path(0)) != first
    assert Stage(str(tmp_path), "s", {"a": 1}, ["torch"]).is_done(0, rows=3, input_hash="x")
    replace(folder, libraries=["torch"]).commit([])
    assert folder.load()["made_with"] == {"torch": "9.9"}
    assert folder.is_done() and folder.identity() == identity
    folder.verify()


def test_a_part_without_versions_stays_readable(tmp_path):
    old = Stage(str(tmp_path), "s", {"a": 1})
    old.write(0, table(3), rows=3, input_hash="x")
    assert b"made_with" not in read_bytes(old.path(0)) and old.footer(0).made_with == {}
    assert Stage(str(tmp_path), "s", {"a": 1}, ["torch"]).is_done(0, rows=3, input_hash="x")


def test_a_part_with_one_flipped_bit_is_read_as_it_was_written_or_refused_by_its_name(tmp_path):
    stage = Stage(str(tmp_path), "s", {"model": "a", "length": 3})
    rng = np.random.default_rng(0)
    values = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=640).astype(np.float16)), 16)
    texts = pa.array([None if n % 5 == 0 else f"text {n}" for n in range(40)])
    part = pa.table({"visit_id": [f"v{n}" for n in range(40)], "values": values, "text": texts})
    stage.write(0, part, rows=40, input_hash="h")
    whole, footer = read_bytes(stage.path(0)), stage.footer(0)
    refused = Counter()
    for bit in rng.choice(len(whole) * 8, 1500, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        Path(stage.path(0)).write_bytes(damaged)
        for what, read, wanted in (
            ("footer", lambda: stage.footer(0), footer),
            ("all", lambda: stage.read(0), part),
            ("two", lambda: stage.read(0, ["values", "visit_id"], input_hash="h"), part.select(["values", "visit_id"])),
        ):
            try:
                assert read() == wanted, (what, bit)
            except ArtifactError as error:
                assert str(error).startswith(stage.path(0)), (what, bit)
                refused[what] += 1
    assert refused["all"] > refused["footer"] > 0 and refused["two"] > 0


def test_a_part_of_another_input_and_other_values_under_a_whole_footer_are_refused(tmp_path):
    stage = Stage(str(tmp_path), "s", {})
    stage.write(0, table(2), rows=2, input_hash="mine")
    with pytest.raises(ArtifactError, match=r"part-00000.parquet: made from other visits than the shard holds"):
        stage.read(0, input_hash="theirs")
    mine = pq.read_table(stage.path(0))
    column = mine.column_names[0]
    swapped = mine.set_column(0, column, mine[column].take([1, 0]))
    pq.write_table(swapped, stage.path(0))
    with pytest.raises(ArtifactError, match=rf"column {column} does not hold what was written"):
        stage.read(0)
    with pytest.raises(ArtifactError, match="column none does not hold"):
        stage.read(0, ["none"])


@pytest.mark.parametrize(
    "content",
    [
        b"[]", b"1", b'{"fields": {}}', b'{"files": {}}', b'{"fields": [], "files": {}}',
        b'{"fields": {}, "files": []}',
        b'{"fields": {}, "files": {"a": 1}}', b'{"fields": {}, "files": {"a": {"size": "1"}}}', b'{"fields"', b"\xff",
        b'{"fields": {}, "files": {}, "extra": 3}',
    ],
)  # fmt: skip
def test_an_artifact_json_that_is_not_ours_is_refused_by_its_path(tmp_path, content):
    (tmp_path / "artifact.json").write_bytes(content)
    for ask in (FolderArtifact.is_done, FolderArtifact.load, FolderArtifact.verify, FolderArtifact.identity):
        with pytest.raises(ArtifactError, match=rf"^{tmp_path}/artifact.json: .*; delete that folder"):
            ask(FolderArtifact(str(tmp_path), {}))
