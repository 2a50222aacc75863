"""Ray Train ranks: what they are given, how they fail, grow, continue; DeepSpeed's losses are one process's."""

import io
from contextlib import contextmanager, nullcontext
from pathlib import Path
from socket import gethostname

import pytest
import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from safetensors.torch import load_file

from ckd.errors import ArtifactError
from ckd.run import Run
from ckd.store.folders import cache_folder
from ckd.student.train import best_checkpoint, train
from cluster import room
from cluster.fit import FitError, fit
from cluster.session import session
from jobs import train_student
from jobs.console import Console
from tests.store.object_store import BUCKET, s3_server
from tests.student.student_cohort import (
    at_url,
    make_base,
    make_cohort,
    make_config,
    make_embeddings,
    make_tokens,
    make_visits,
    train_rank,
    train_rank_killed_once,
    train_rank_until_there_is_room,
)
from tests.student.student_ranks import spawn


def fail(payload, *, world, rank, preempted, report):
    report({"attempt": 1})
    raise ArithmeticError("a secret of the data")


def figures(reports) -> dict[int, tuple[float, float]]:
    return {r["step"]: (r["loss"], r["gradient_norm"]) for r in reports if "loss" in r}


def test_workers_import_the_project_and_a_nested_session_leaves_the_outer_one_open(local_ray):
    @ray.remote
    def imported() -> list[str]:
        import ckd
        import jobs

        return [str(Path(module.__file__).parents[1]) for module in (ckd, jobs)]

    with session():
        assert ray.get(imported.remote()) == [str(Path(__file__).resolve().parents[2])] * 2
    assert ray.is_initialized()


@pytest.mark.faults
def test_a_group_that_keeps_failing_ends_without_quoting_the_data(local_ray, monkeypatch):
    monkeypatch.setattr("cluster.fit.FAILURES", 0)
    heard = []
    with pytest.raises(FitError) as caught:
        fit(fail, {}, workers=(1, 1), gpus_per_worker=0, name="fail", on_report=heard.append, stopped=never)
    assert "ArithmeticError" in str(caught.value) and "secret" not in str(caught.value)
    assert heard[0] | {"process": 0} == {"rank": 0, "machine": gethostname(), "process": 0}
    assert heard[1:] == [{"attempt": 1}]


def never() -> bool:
    return False


def test_a_stopped_training_starts_no_group_and_waits_for_no_room(local_ray):
    heard = []
    for workers in ((1, 1), (99, 99)):
        fit(fail, {}, workers=workers, gpus_per_worker=0, name="no", on_report=heard.append, stopped=lambda: True)
    assert not heard


class EnoughError(Exception):
    """Waited long enough."""


def test_a_group_waits_for_the_least_number_of_workers_and_says_so(local_ray, monkeypatch):
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LINES", 0.5)
    heard = []

    def waiting(found: int) -> None:
        heard.append(found)
        if found == 4:
            raise EnoughError

    with pytest.raises(EnoughError):
        room.wait_for_room({"CPU": 1}, (5, 6), waiting, 0, never)
    assert room.wait_for_room({"CPU": 1}, (1, 4), waiting, 5, never) == 4, "what was held is given back"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


def prepared(folder: Path, base: str, root: str = "", **student):
    visits = [*make_visits("train", 22), *make_visits("tuning", 55), *make_visits("held_out", 4)]
    config = make_config(folder, base, **{"dropout": 0.0, "epochs": 1, **student})
    config = at_url(config, root) if root else config
    make_cohort(config.run.artifacts_root, visits)
    make_embeddings(config)
    make_tokens(config)
    return config


def on_ray(config, rank=train_rank, failures=0, hear=None) -> list[dict]:
    heard = []
    workers = (config.student.workers.min, config.student.workers.max)

    def listen(figures) -> None:
        heard.append(figures)
        if hear is not None:
            hear(figures)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"FAILURES": failures, "SECONDS_TO_SETTLE": 1, "SECONDS_OF_PATIENCE": 1}.items():
            patch.setattr(f"cluster.fit.{name}", value)
        fit(rank, config.model_dump(), workers=workers, gpus_per_worker=0, name="t", on_report=listen, stopped=never)
    assert not (Path(config.run.artifacts_root) / "compiled").exists(), "something was compiled at start"
    return heard


def alone(config) -> list[dict]:
    heard = []
    train(
        Run(config), world=1, rank=0, preempted=lambda: False, report=heard.append, deepspeed=False, seconds_between=0
    )
    return heard


def assert_agree(heard, wanted) -> None:
    assert figures(heard).keys() == figures(wanted).keys() >= {1, 2, 3}
    for step, (loss, norm) in figures(wanted).items():
        assert figures(heard)[step][0] == pytest.approx(loss, abs=1e-3), step
        assert figures(heard)[step][1] in (None, pytest.approx(norm, rel=1e-2)), step  # None: stage 0 does not tell
    scores = [[r["tuning_score"] for r in reports if "epoch" in r] for reports in (heard, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-2)


@contextmanager
def crowd():
    """Only one of Ray's 4 CPUs is free until the others are released."""
    group = placement_group([{"CPU": 3}])
    assert group.wait(30)
    try:
        yield lambda: remove_placement_group(group)
    finally:
        remove_placement_group(group)


@pytest.mark.faults
def test_a_group_grows_when_there_is_room_without_losing_a_step_and_agrees_with_one_process(local_ray, tmp_path, base):
    """A group of one does two steps; then there is room for two.

    It saves and leaves, and the two continue from its checkpoint.
    """
    wanted = alone(prepared(tmp_path / "alone", base, epochs=2))
    config = prepared(tmp_path / "ray", base, epochs=2, workers="1..2", gradient_accumulation=2)
    made_before = set((cache_folder() / "universal").glob("*"))
    with crowd() as release:
        heard = on_ray(
            config, train_rank_until_there_is_room, hear=lambda figures: release() if figures.get("step") == 2 else None
        )
    assert_agree(heard, wanted)
    assert [(r["started"], r["world"]) for r in heard if "started" in r] == [(0, 1), (2, 2)]
    steps = [r["step"] for r in heard if "loss" in r]
    assert steps == sorted(set(steps)), "no step twice"
    one, other = weights(config), weights(prepared(tmp_path / "alone", base, epochs=2))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    checkpoint = Path(config.run.artifacts_root) / "checkpoints" / "step-0000006"
    assert len(list(checkpoint.glob("global_step*/*optim_states.pt"))) == 2, "ZeRO cuts the optimizer among the ranks"
    assert set((cache_folder() / "universal").glob("*")) <= made_before, "what was made to continue is gone"
    with pytest.raises(ArtifactError, match=r"student\.workers='1 or more', this run has student\.workers='0'"):
        alone(config)


@pytest.mark.faults
def test_the_job_trains_on_ray_and_refuses_a_changed_setting_before_it_starts_ranks(local_ray, tmp_path, base):
    config = prepared(tmp_path, base, workers=2)
    stream = io.StringIO()
    train_student.run(config, Console(stream))
    assert "epoch 1, macro_auprc" in stream.getvalue() and "student" in stream.getvalue().splitlines()[-1]
    (Path(config.run.folder) / "student" / "artifact.json").unlink()
    changed = config.model_copy(update={"student": config.student.model_copy(update={"hard_weight": 0.5})})
    with pytest.raises(ArtifactError, match=r"student\.hard_weight=0\.9, this run has student\.hard_weight=0\.5"):
        train_student.run(changed, Console(io.StringIO()))


@pytest.mark.faults
@pytest.mark.parametrize(("stage", "remote"), [(0, False), (1, True), (2, False), (3, True)])
def test_one_worker_continues_what_two_began_at_any_zero_stage_and_on_an_object_store(
    tmp_path, base, stage, remote, monkeypatch
):
    settings = {"epochs": 2, "weight_decay": 0.1, "embedding_weight": 0.5, "max_length": 16}
    plain = prepared(tmp_path / "alone", base, **settings)
    alone(plain)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_server() if remote else nullcontext() as port:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }.items():
            monkeypatch.setenv(name, value)
        settings |= {"zero_stage": stage, "activation_checkpointing": stage > 1}
        config = prepared(tmp_path / "ranks", base, root=f"s3://{BUCKET}" if remote else "", workers="1..2", **settings)
        spawn(config, 2, leave_after=2)
        spawn(config, 1)
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"], (
            "nothing stays on this machine"
        )
        _assert_same_student(config, plain)


def _assert_same_student(config, plain) -> None:
    one, other = weights(config), weights(plain)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert scores(config) == pytest.approx(scores(plain), abs=1e-3)


def scores(config) -> list[float]:
    return [epoch["score"] for epoch in best_checkpoint(Run(config), print).extra["selection"]["history"]]


@pytest.mark.faults
def test_a_rank_that_dies_is_replaced_and_the_group_continues_exactly(local_ray, tmp_path, base):
    configs = [prepared(tmp_path / name, base, workers=2, dropout=0.1, epochs=2) for name in ("whole", "died")]
    whole, died = on_ray(configs[0]), on_ray(configs[1], train_rank_killed_once, failures=1)
    assert (Path(configs[1].run.artifacts_root) / "died").exists()
    assert figures(died) == figures(whole)
    one, other = map(weights, configs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def weights(config) -> dict[str, torch.Tensor]:
    return load_file(Path(best_checkpoint(Run(config), print).fetched()) / "model.safetensors")
