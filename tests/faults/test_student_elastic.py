"""The student on machines that are drained, vanish and come back: what it repeats; it ends as undisturbed."""

import io
import json
from pathlib import Path

import pytest

from ckd import configfile
from ckd.errors import IncompleteError
from ckd.run import Run
from ckd.student.train import best_checkpoint
from jobs import verify
from jobs.console import Console
from testbed.raycluster import cluster, stop, until
from tests.student.student_cohort import make_base, make_cohort, make_config, make_tokens, make_visits
from tests.student.student_ranks import spawn

pytestmark = pytest.mark.faults
SETTINGS = {"batch_size": 4, "epochs": 3, "patience": 3, "checkpoint_steps": 100}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"), hidden=32)


class Driven:
    """One run of train-student by a driver on a cluster, and the lines of its events.jsonl so far."""

    def __init__(self, folder: Path, base: str, **student: object) -> None:
        made = make_config(folder, base, **{**SETTINGS, **student})
        make_cohort(folder / "artifacts", [*make_visits("train", 1200), *make_visits("tuning", 60)], shard_rows=400)
        make_tokens(made)
        self.config = made.model_copy(
            update={"run": made.run.model_copy(update={"shared_mounts": (str(folder.parents[1]),)})}
        )
        self.file, self.folder = folder / "config.yaml", Path(made.run.folder)
        self.file.write_text(configfile.dump(self.config))
        self.log = folder / "driver.log"

    def drive(self, one) -> None:
        self.driver = one.driver("-m", "tests.faults.slow_student", "--config", str(self.file), log=self.log)

    def events(self, kind: str) -> list[dict]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def step(self) -> int:
        return max((event["step"] for event in self.events("student_step")), default=0)

    def wait(self, condition, seconds: float, what: str) -> None:
        try:
            until(lambda: condition() or self.driver.poll() is not None, seconds, what, 0.2)
            assert condition(), what
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.started()}\n{self.log.read_text()[-3000:]}") from None

    def started(self) -> list[tuple[int, int, int]]:
        return [(event["workers"], event["step"], event["repeated"]) for event in self.events("student_started")]

    def finish(self) -> None:
        """Without haste it would last a minute."""
        (self.folder.parent / "hurry").touch()
        assert self.driver.wait(timeout=300) == 0, self.log.read_text()
        printed = io.StringIO()
        with pytest.raises(IncompleteError):  # there is no teacher here
            verify.run(self.config, Console(printed))
        assert "student      whole" in printed.getvalue() and "problem" not in printed.getvalue().replace(
            "0 problems", ""
        )


def test_a_drained_machine_costs_no_step_a_vanished_one_at_most_an_interval(tmp_path, base):
    run = Driven(tmp_path, base, workers="1..2", epochs=4)
    with cluster({"a": {}, "b": {}}, cpus=0) as one:
        run.drive(one)
        run.wait(lambda: run.step() > 20, 240, "two workers train")
        assert run.started() == [(2, 0, 0)]
        one.drain("b", 300)
        run.wait(lambda: len(run.started()) == 2, 90, "one worker continues long before the deadline")
        assert run.events("student_checkpoint")[-1]["preempted"]
        workers, step, repeated = run.started()[-1]
        assert (workers, repeated) == (1, 0) and step == run.events("student_checkpoint")[-1]["step"]
        one.vanish("b")
        one.add("c")
        run.wait(lambda: len(run.started()) == 3, 90, "the group grows")
        workers, step, repeated = run.started()[-1]
        assert (workers, repeated) == (2, 0)
        run.wait(lambda: run.step() > step + 20, 60, "two workers train again")
        one.vanish("c")
        run.wait(lambda: len(run.started()) == 4, 120, "one worker continues after a loss without notice")
        workers, step, repeated = run.started()[-1]
        assert workers == 1 and 0 <= repeated <= SETTINGS["checkpoint_steps"]
        run.finish()


def test_a_killed_driver_and_a_replaced_machine_end_in_the_very_same_student(tmp_path, base):
    whole = Driven(tmp_path / "whole", base, workers=2, epochs=2)
    spawn(whole.config, 2)
    run = Driven(tmp_path / "killed", base, workers=2, epochs=2)
    with cluster({"a": {}, "b": {}}, cpus=0) as one:
        run.drive(one)
        run.wait(lambda: run.step() > 120, 240, "two workers train")
        stop(run.driver)
        run.drive(one)
        run.wait(lambda: len(run.started()) == 2 and run.step() > 220, 240, "the same command continues")
        assert 100 <= run.started()[-1][1] <= 400
        one.vanish("b")
        one.add("c")
        run.finish()
    assert [workers for workers, _, _ in run.started()] == [2, 2, 2]
    assert run.started()[-1][2] <= SETTINGS["checkpoint_steps"]
    best, other = (best_checkpoint(Run(each.config), print) for each in (run, whole))
    assert best.extra == other.extra
    assert (Path(best.folder) / "model.safetensors").read_bytes() == (
        Path(other.folder) / "model.safetensors"
    ).read_bytes()
