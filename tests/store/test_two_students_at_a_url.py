"""Two drivers train one student at s3://, where nothing locks: what they leave is the student of one alone."""

import subprocess
import sys

import pytest

from ckd.store.files import exists, join, read_bytes
from tests.store.test_object_store import configured, inputs, uploaded

__all__ = ["inputs"]  # the fixture

pytestmark = pytest.mark.faults
MORE = ("student.epochs=3", "student.checkpoint_steps=1")


def words(inputs, root):
    config = configured(inputs, root)
    return [f"{section}.{key}={value}" for section, keys in _given(config).items() for key, value in keys.items()]


def _given(config):
    given = config.model_dump(exclude_unset=True)
    return {section: keys for section, keys in given.items() if isinstance(keys, dict)}


def started(words):
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", "train-student", *words, *MORE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_drivers_at_once_leave_the_student_of_one(tmp_path, root, inputs):
    here = configured(inputs, str(tmp_path / "local"))
    alone = [sys.executable, "-m", "jobs", "run", *words(inputs, str(tmp_path / "local")), *MORE]
    subprocess.run(alone, check=True, capture_output=True)  # as the drivers: a process of its own
    uploaded(inputs, f"{root}/inputs")
    there = configured(f"{root}/inputs", root)
    given = words(f"{root}/inputs", root)
    for stage in ("embed", "train-head", "soft-labels"):
        subprocess.run([sys.executable, "-m", "jobs", stage, *given, *MORE], check=True, capture_output=True)
    drivers = [started(given) for _ in range(2)]
    said = [driver.communicate(timeout=300)[0] for driver in drivers]
    codes = [driver.returncode for driver in drivers]
    assert codes == [0, 0], said
    assert not any("Traceback" in text for text in said), said
    again = subprocess.run(
        [sys.executable, "-m", "jobs", "train-student", *given, *MORE], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    for name in ("student/model.safetensors", "student/artifact.json"):
        assert read_bytes(join(there.run.folder, name)) == read_bytes(join(here.run.folder, name)), name
    assert exists(join(there.run.public_results, "heads_results0.9/best_model.pt"))
