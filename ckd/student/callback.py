"""When a training run scores its tuning visits, stops, saves and answers a preemption."""

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from ckd.errors import ConfigError
from ckd.student.examples import Examples
from ckd.student.resume import forget
from ckd.student.trainer import StudentTrainer
from ckd.student.tuning import score

MOST_STEPS_BETWEEN = 1000  # optimizer steps between two questions, however quick they are


class Course(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Drives one StudentTrainer.

    Every few steps (about `seconds_between`; the number comes from rank 0 so that all ranks ask together) it reports
    loss and speed and asks `preempted()`. A preemption saves at once and ends training here: every step after the save
    would have to be repeated elsewhere.
    """

    def __init__(
        self,
        trainer: StudentTrainer,
        tuning: Examples | None,
        labels: list[int],
        *,
        preempted: Callable[[], bool],
        report: Callable[[dict[str, Any]], None],
        seconds_between: float,
        checkpoint_steps: int,
    ) -> None:
        self.trainer, self.tuning, self.labels = trainer, tuning, labels
        self.preempted, self.report, self.seconds_between = preempted, report, seconds_between
        self.checkpoint_steps, self.leaving = checkpoint_steps, False
        self.asked_at, self.asked_step, self.ask_next = time.monotonic(), 0, 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return self.trainer.data.batches.steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.asked_at, self.asked_step, self.ask_next = time.monotonic(), state.global_step, state.global_step + 1

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Shuffle. The step count knows the epoch exactly, also in the middle of one."""
        self.trainer.data.epoch = state.global_step // self.steps_per_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Ask and report when it is time; save every checkpoint_steps and at a preemption, which ends training."""
        step = state.global_step
        if self.trainer.resume is not None:
            forget(self.trainer.resume)  # a step is done together: all ranks have loaded
            self.trainer.resume = None
        if step >= self.ask_next:
            self.leaving = self._ask(step)
        wanted = self.leaving or step % self.checkpoint_steps == 0
        # The end of an epoch saves by itself, after scoring: a checkpoint before it would skip the score on resume.
        control.should_save = wanted and step % self.steps_per_epoch != 0
        control.should_training_stop = self.leaving
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Score the tuning visits, decide whether to stop, and save. In the middle of an epoch do nothing."""
        if state.global_step % self.steps_per_epoch:
            return control
        selection, epoch = self.trainer.selection, state.global_step // self.steps_per_epoch
        value = 0.0
        if self.tuning is not None and selection.metric != "last_epoch":
            logits_nl, hard_nl = self.trainer.predict_logits(self.tuning)
            value = self.trainer.ranks.broadcast(score(selection.metric, self.labels, logits_nl, hard_nl))
        selection.update(epoch, state.global_step, value)
        control.should_save = True
        control.should_training_stop = selection.finished or self.leaving
        self.report(
            {
                "epoch": epoch,
                "step": state.global_step,
                "metric": selection.metric,
                "tuning_score": value,
                "best_epoch": selection.best_epoch,
            }
        )
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that a checkpoint is whole."""
        self.report({"checkpoint": state.global_step, "step": state.global_step, "preempted": self.leaving})

    def _ask(self, step: int) -> bool:
        """One question to all ranks; True when a machine is about to go."""
        loss, visits = self.trainer.take_recent()
        if not math.isfinite(loss):
            rate = self.trainer.args.learning_rate
            raise ConfigError(f"student.learning_rate={rate}: the loss is no longer finite at step {step}; lower it")
        seconds = max(time.monotonic() - self.asked_at, 1e-6)
        pace = math.ceil(self.seconds_between * (step - self.asked_step) / seconds)
        self.ask_next = step + self.trainer.ranks.broadcast(min(max(pace, 1), MOST_STEPS_BETWEEN))
        steps, since = self.steps_per_epoch * self.trainer.selection.epochs, max(step - self.asked_step, 1)
        self.report(
            {
                "step": step,
                "steps": steps,
                "step_seconds": round(seconds / since, 4),
                "loss": loss,
                "gradient_norm": self.trainer.gradient_norm,
                "visits_per_s": round(visits / seconds, 1),
                "seconds_left": round((steps - step) * seconds / since),
            }
        )
        self.asked_at, self.asked_step = time.monotonic(), step
        return self.preempted()
