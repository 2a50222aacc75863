"""One rank of the student's training: put data, model and trainer together and train to the end.

It continues from the newest checkpoint. torch is imported only when training starts.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ckd.config import Config
from ckd.errors import ArtifactError, DataError
from ckd.run import Run
from ckd.store.files import digest
from ckd.store.folders import cache_folder
from ckd.student.checkpoint import Checkpoint, Checkpoints
from ckd.student.examples import Examples
from ckd.student.fingerprint import STUDENT, require_same_base, training_shards
from ckd.student.loss import Loss, teacher_data
from ckd.student.mapped import MappedArrays
from ckd.student.ranks import Place, Ranks
from ckd.student.tokens import TOKENS
from ckd.student.tuning import Selection, all_labels, choose_metric

if TYPE_CHECKING:
    from ckd.student.trainer import StudentTrainer

SECONDS_BETWEEN_QUESTIONS = 5.0
Report = Callable[[dict[str, Any]], None]


def train(
    run: Run,
    *,
    world: int,
    rank: int,
    preempted: Callable[[], bool],
    report: Report,
    deepspeed: bool,
    seconds_between: float = SECONDS_BETWEEN_QUESTIONS,
) -> bool:
    """Train until the epochs or the patience end (True). Calling again continues, at any `world`.

    `best_checkpoint` then names the winner. Every rank calls `preempted` equally often; once it is true, all ranks save
    the step and leave (False). A report is {"line": …} for a person, {"started" (the step), "world"} before the first
    step, {"step", "loss" (mean per visit), "visits_per_s", …} every few seconds, {"epoch", "tuning_score", …} after an
    epoch, {"checkpoint", "preempted"} after a save. `deepspeed` needs torch.distributed to be set up. Raises DataError
    without training visits, ArtifactError naming the field when the checkpoints belong to another configuration,
    UnreachableError.
    """
    config, place = run.config, _place(run.config, Ranks(world, rank), deepspeed)
    require_same_base(run)
    checkpoints = open_checkpoints(run, place)
    with MappedArrays(cache_folder() / "examples" / digest([run.root, checkpoints.fields])) as mapped:
        examples, tuning = _examples(run, mapped)
        metric, labels, why = choose_metric(all_labels(tuning))
        start = place.ranks.once(lambda: _newest(checkpoints, report))
        fresh = Selection(metric, config.student.patience, config.student.epochs)
        selection = Selection.from_json(start.extra["selection"]) if start else fresh
        report({"line": _beginning(start, why, place)})
        report({"started": start.step if start else 0, "world": world})
        if not selection.finished:
            from ckd.student.callback import Course

            # Before the trainer, which switches on ZeRO-3's partitioned loading: it would skip our seed.
            model = _new_model(run, None if start else report)
            trainer = _trainer(config, place, model, examples, checkpoints, selection, start)
            asked = partial(Course, preempted=preempted, report=report, seconds_between=seconds_between)
            trainer.add_callback(asked(trainer, tuning, labels, checkpoint_steps=config.student.checkpoint_steps))
            trainer.train(resume_from_checkpoint=trainer.resume.folder if trainer.resume else None)
    return selection.finished


def _newest(checkpoints: Checkpoints, report: Report) -> Checkpoint | None:
    """Where training goes on; older checkpoints that a killed command was writing or removing go."""
    found = checkpoints.newest(lambda line: report({"line": line}))
    if found:
        checkpoints.sweep(found.step)
    return found


def _new_model(run: Run, report: Report | None) -> Any:
    """The base model with a fresh head; what of it is new is reported."""
    from ckd.student.model import new_student

    student = new_student(run.config, run.cohort.task.names)
    if report:
        report({"line": f"train-student: student.base_model={run.config.student.base_model}: {student}"})
    return student.model


def _beginning(start: Checkpoint | None, why: str, place: Place) -> str:
    if start is None:
        return f"train-student: {why}"
    ranks = f" on {place.ranks.world} instead of {start.world} workers" if start.world != place.ranks.world else ""
    return f"train-student: continuing after step {start.step}{ranks}"


def open_checkpoints(run: Run, place: Place) -> Checkpoints:
    """The checkpoints of this student. The kind of their files must be the same on resume too, but not the ranks."""
    layout = {
        "student.workers": "1 or more" if place.deepspeed else "0",
        "student.zero_stage": run.config.student.zero_stage if place.deepspeed else None,
        "dtype": "bfloat16" if place.bf16 else "float32",
    }
    return Checkpoints(run.root, STUDENT.artifact(run).fields, layout)


def best_checkpoint(run: Run, say: Callable[[str], None]) -> Checkpoint:
    """The winning epoch's checkpoint of a finished training.

    Raises ArtifactError when training has not finished or the checkpoint is damaged.
    """
    checkpoints = Checkpoints(run.root, STUDENT.artifact(run).fields, None)
    newest = checkpoints.newest(say)
    selection = Selection.from_json(newest.extra["selection"]) if newest else None
    if selection is None or not selection.finished or selection.best_step is None:
        raise ArtifactError(f"{checkpoints.root}: training has not finished; run 'ckd train-student' again")
    best = newest if newest and newest.step == selection.best_step else checkpoints.load(selection.best_step, say)
    if best is None:
        where = checkpoints.folder(selection.best_step)
        raise ArtifactError(f"{where}: the best epoch is damaged; delete {checkpoints.root} and train again")
    return Checkpoint(best.step, best.folder, {"selection": selection.to_json()})


def _place(config: Config, ranks: Ranks, deepspeed: bool) -> Place:
    from ckd.student.model import device_of, has_bf16
    from ckd.student.zero import choose_device, uses_bf16, without_compiler

    device = device_of(config.student.gpus_per_worker)
    choose_device(device.type)
    if deepspeed:
        without_compiler()
    bf16 = uses_bf16(config.student.zero_stage if deepspeed else None, has_bf16(device))
    return Place(ranks, device, bf16, deepspeed)


def _examples(run: Run, mapped: MappedArrays) -> tuple[Examples, Examples | None]:
    config, root, fields = run.config, run.root, TOKENS.stage(run).fields
    shards, tuning = training_shards(config, run.cohort), run.cohort.select("tuning")
    if not shards:
        raise DataError(f"{root}: no training visits with labels; give data.train, or rows with split=train")
    s = config.student
    examples = Examples(
        root,
        shards,
        fields,
        hard_weight=s.hard_weight,
        teacher=[data.stage for data in teacher_data(s)],
        adapter_share=config.teacher.adapter_share,
        mapped=mapped,
    )
    return examples, Examples(root, tuning, fields, mapped=mapped) if tuning else None


def _trainer(
    config: Config,
    place: Place,
    model: Any,
    examples: Examples,
    checkpoints: Checkpoints,
    selection: Selection,
    start: Checkpoint | None,
) -> "StudentTrainer":
    from ckd.student.batches import Batches
    from ckd.student.resume import prepare
    from ckd.student.trainer import MicroBatches, StudentTrainer, training_arguments

    resume = prepare(start, place.ranks, config.student.zero_stage if place.deepspeed else None) if start else None
    loss = Loss.prepare(config, model, examples, place.ranks)
    batches = Batches(
        examples,
        seed=config.seed,
        batch_size=config.student.batch_size,
        pad_id=model.config.pad_token_id or 0,
        ranks=place.ranks,
        accumulation=config.student.gradient_accumulation,
    )
    universal = resume is not None and resume.universal
    arguments = training_arguments(config, place, steps_per_epoch=batches.steps, universal=universal)
    data = MicroBatches(batches)
    return StudentTrainer(
        model, arguments, data, loss=loss, checkpoints=checkpoints, selection=selection, resume=resume
    )
