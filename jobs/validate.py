"""Job: read input files, count and locate bad rows, say whether the target repeats the current visit. No model."""

import json
import tempfile
from argparse import Namespace
from itertools import islice

from ckd.config import Config
from ckd.errors import DataError
from ckd.visits.inputs import Input
from ckd.visits.intake import Intake, configured_inputs
from ckd.visits.taskfile import load_task
from jobs.console import Console

LISTED = 100  # bad rows that are named one by one


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Validate the given files, or else the configured inputs, and name the bad rows with file:line.

    Raises DataError above data.max_bad_rows bad rows.
    """
    files = [word for word in arguments.words if "=" not in word]
    task = load_task(config.task)
    groups = config.ingest.subgroups
    inputs = [Input(path, "train", task, subgroups=groups) for path in files]
    inputs = inputs or configured_inputs(config.data, task, groups)
    if not inputs:
        raise DataError(
            "nothing to validate; expected files, as in 'ckd validate data/name_train.json', "
            "or data.train in the configuration"
        )
    with tempfile.TemporaryFile() as quarantine:
        intake = Intake(inputs, quarantine)
        for _ in intake:
            pass
        for line in [*(line for each in inputs for line in each.lines()), *intake.counts.lines(config.teacher.system)]:
            console.say(f"validate: {line}")
        quarantine.seek(0)
        for row in map(json.loads, islice(quarantine, LISTED)):
            console.say(f"validate: {row['location']}: {row['reason']}")
    if intake.counts.quarantined > LISTED:
        console.say(f"validate: … and {intake.counts.quarantined - LISTED:,} more such rows")
    intake.counts.require_at_most(config.data.max_bad_rows)
