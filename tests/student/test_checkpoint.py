"""The newest whole checkpoint wins, damaged ones are named, another configuration's are refused, old ones go."""

import re
from pathlib import Path

import pytest

from ckd.errors import ArtifactError
from ckd.student.checkpoint import Checkpoints

LAYOUT = {"student.workers": "0", "student.zero_stage": None, "dtype": "float32"}


def make(root: Path, *steps: int, fields=None, layout=LAYOUT) -> Checkpoints:
    checkpoints = Checkpoints(str(root), {"hard_weight": 0.9} if fields is None else fields, layout)
    for step in steps:
        checkpoints.clear(step)
        listing = {}
        for rank in (0, 1):
            with checkpoints.staging(step) as staged:
                folder = Path(staged)
                (folder / "deep").mkdir()
                (folder / "deep" / f"state-{rank}.bin").write_bytes(b"s")
                if rank == 0:
                    (folder / "weights.bin").write_bytes(b"w" * step)
                listing |= checkpoints.add(step, staged)
            assert not folder.exists()
        checkpoints.commit(step, listing, {"selection": {"n": step}, "world": 2})
    return checkpoints


def test_the_newest_whole_checkpoint_wins(tmp_path):
    lines = []
    found = make(tmp_path, 3, 20, 100).newest(lines.append)
    assert found.step == 100 and found.extra["selection"] == {"n": 100} and not lines


def test_no_checkpoint_is_none(tmp_path):
    assert make(tmp_path).newest(print) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "artifact.json").unlink(),
        lambda folder: (folder / "weights.bin").write_bytes(b"x" * 20),
        lambda folder: (folder / "deep" / "state-1.bin").unlink(),
        lambda folder: (folder / "artifact.json").write_text("{"),
    ],
)
def test_damaged_and_unfinished_ones_are_skipped_with_a_line(tmp_path, damage):
    checkpoints = make(tmp_path, 10, 20)
    damage(Path(checkpoints.folder(20)))
    lines = []
    assert checkpoints.newest(lines.append).step == 10
    assert len(lines) == 1 and "step-0000020" in lines[0] and "\n" not in lines[0]


def test_another_configuration_is_refused_by_name_even_when_damaged(tmp_path):
    (Path(make(tmp_path, 10).folder(10)) / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"hard_weight=0.9, this run has hard_weight=0.5"):
        make(tmp_path, fields={"hard_weight": 0.5}).newest(print)


def test_another_layout_is_refused_for_training_but_not_for_reading(tmp_path):
    make(tmp_path, 10)
    with pytest.raises(ArtifactError, match=re.escape("student.workers='0', this run has student.workers='1 or more'")):
        make(tmp_path, layout={**LAYOUT, "student.workers": "1 or more"}).newest(print)
    assert make(tmp_path, layout=None).newest(print).step == 10


def test_the_newest_two_and_the_best_stay(tmp_path):
    checkpoints = make(tmp_path, 10, 20, 30, 40, 50)
    (Path(checkpoints.folder(20)) / "artifact.json").unlink()
    checkpoints.prune(10)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-0000010",
        "step-0000040",
        "step-0000050",
    ]


def test_a_step_written_again_replaces_the_old_one(tmp_path):
    checkpoints = make(tmp_path, 10)
    checkpoints.clear(10)
    assert not Path(checkpoints.folder(10)).exists()
