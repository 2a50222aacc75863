"""A training that was stopped continues exactly, wherever its checkpoints are: the same losses and weights."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckd.errors import UnreachableError
from ckd.run import Run
from ckd.store.files import join, read_bytes, write_bytes
from ckd.store.folders import list_folders
from ckd.student.train import best_checkpoint
from tests.store.object_store import BUCKET, no_fault, proxy, s3_server
from tests.student.student_cohort import make_cohort, make_config
from tests.student.trainings import VISITS, Ear, MachineLostError, assert_same, prepared, run_train, weights


@pytest.mark.parametrize("stops", [(3,), (4,), (3, 4, 6, 8)])
def test_a_run_stopped_at_checkpoints_continues_exactly_dropout_included(tmp_path, base, undisturbed, stops):
    config = prepared(tmp_path, base)
    losses: dict[int, float] = {}
    for stop in stops:
        ear = Ear(stop)
        with pytest.raises(MachineLostError):
            run_train(config, ear)
        losses |= ear.losses()
    losses |= run_train(config).losses()
    assert losses == undisturbed[1].losses()
    assert best_checkpoint(Run(config), print).extra == best_checkpoint(Run(undisturbed[0]), print).extra
    assert_same(weights(config), weights(undisturbed[0]))


@pytest.fixture(scope="module")
def gate():
    with s3_server() as port, proxy(port) as made:
        yield made


@pytest.fixture
def bucket(gate, tmp_path, monkeypatch):
    """A URL on an S3 server, and the local cache of what lies there."""
    environment = {
        "AWS_ENDPOINT_URL": gate.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "XDG_CACHE_HOME": str(tmp_path / "c"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    gate.fault = no_fault


def test_checkpoints_on_an_object_store_that_fails_now_and_then_continue_exactly(
    tmp_path, base, undisturbed, bucket, gate
):
    config = prepared(tmp_path, base, root=bucket)
    gate.fault = lambda number, method, path: (500 if number % 12 else "cut") if number % 6 == 0 else None
    with pytest.raises(MachineLostError):
        run_train(config, Ear(4))
    broken = join(config.run.artifacts_root, "checkpoints", "step-0000004", "model.safetensors")
    write_bytes(broken, read_bytes(broken)[:-1] + b"?")
    ear = run_train(config)
    assert any("step-0000004" in r.get("line", "") and "not whole" in r["line"] for r in ear.reports)
    assert {"started": 3, "world": 1} in ear.reports
    assert_same(weights(config), weights(undisturbed[0]))
    assert list_folders(join(config.run.artifacts_root, "checkpoints")) == ["step-0000006", "step-0000008"], (
        "old ones are pruned"
    )
    left = [
        path
        for path in (tmp_path / "c").rglob("*")
        if path.is_file() and path.suffix != ".lock" and "optimizer" in path.name
    ]
    assert len(left) == 1, "of what it continued from nothing stays; what `weights` fetched does"


def test_a_store_that_stays_away_ends_training_with_the_way_on(tmp_path, base, bucket, gate):
    config = prepared(tmp_path, base, root=bucket)

    def away(number: int, method: str, path: str) -> int | None:
        return 503 if "checkpoints/step-0000006" in path and method == "PUT" else None

    gate.fault = away
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_MAX_ATTEMPTS", "2")
        with pytest.raises(UnreachableError):
            run_train(config)
    gate.fault = no_fault
    assert {"started": 4, "world": 1} in run_train(config).reports


@pytest.mark.parametrize("notice", [2, 4])
def test_a_preemption_saves_the_step_and_leaves_and_no_step_is_lost(tmp_path, base, undisturbed, notice):
    """Step 2 lies within an epoch, step 4 ends one: its tuning score must not be skipped."""
    config = prepared(tmp_path, base)
    answers = iter([step == notice for step in range(1, 9)])
    ear = run_train(config, preempted=lambda: next(answers))
    assert not ear.finished and [r["checkpoint"] for r in ear.reports if "checkpoint" in r][-1] == notice == max(
        ear.losses()
    )
    after = run_train(config)
    assert after.finished and {"started": notice, "world": 1} in after.reports
    assert ear.losses() | after.losses() == undisturbed[1].losses() and not ear.losses().keys() & after.losses().keys()
    assert best_checkpoint(Run(config), print).extra == best_checkpoint(Run(undisturbed[0]), print).extra
    assert_same(weights(config), weights(undisturbed[0]))


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.6])
def test_a_killed_process_continues_to_the_same_weights(tmp_path, base, seconds):
    """SIGKILL at some moment after the first checkpoint, then the same command again."""
    code = (
        "import sys; from jobs import train_student; from jobs.console import Console; from ckd.config import Config\n"
    )
    code += "train_student.run(Config.model_validate_json(sys.argv[1]), Console(sys.stdout))"
    configs = [make_config(tmp_path / name, base, epochs=12) for name in ("killed", "whole")]
    for config in configs:
        make_cohort(Path(config.run.artifacts_root), VISITS)
    command = [sys.executable, "-c", code, configs[0].model_dump_json()]
    process = subprocess.Popen(command)
    first = Path(configs[0].run.artifacts_root) / "checkpoints" / "step-0000003" / "artifact.json"
    while not first.exists():
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True)
    subprocess.run([*command[:3], configs[1].model_dump_json()], check=True)
    assert_same(weights(configs[0]), weights(configs[1]))
