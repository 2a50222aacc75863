"""Job: read input files, count and locate bad rows, say whether the target repeats the current visit. No model."""

from argparse import Namespace

from ckd.config import Config
from ckd.errors import DataError
from ckd.visits.inputs import Input
from ckd.visits.intake import Intake, configured_inputs
from ckd.visits.taskfile import load_task
from jobs.console import Console


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Validate the given files, or else the configured inputs. Raises DataError above data.max_bad_rows bad rows."""
    files = [word for word in arguments.words if "=" not in word]
    task = load_task(config.task)
    inputs = [Input(path, "train", task) for path in files] or configured_inputs(config.data, task)
    if not inputs:
        raise DataError(
            "nothing to validate; expected files, as in 'ckd validate data/name_train.json', "
            "or data.train in the configuration"
        )
    intake = Intake(inputs)
    for _ in intake:
        pass
    for line in [*(line for each in inputs for line in each.lines()), *intake.counts.lines(config.teacher.system)]:
        console.say(f"validate: {line}")
    intake.settle(config.data.max_bad_rows)
