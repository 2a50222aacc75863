"""The public files of a run: which they are, and whether they are its own."""

from collections.abc import Iterator
from contextlib import suppress

from ckd.errors import ArtifactError
from ckd.run import Run
from ckd.store.jsonfile import read_json
from ckd.visits.public_files import (
    clean_file,
    head_file,
    public_metrics_file,
    public_metrics_line,
    public_metrics_lines,
    results_file,
    soft_label_file,
    student_file,
)


def owned(run: Run) -> list[str]:
    """Every public file that one run alone writes.

    `test_metrics.txt` is not among them: runs append their lines to it, as the public code does.
    """
    places, weight = run.config.run, run.config.student.hard_weight
    files = [of(places.public_folder, split) for of in (soft_label_file, clean_file) for split in ("train", "val")]
    results = [of(places.public_results, weight) for of in (student_file, results_file)]
    return [*files, head_file(places.public_folder), *results]


def require_own(run: Run) -> None:
    """Raise ConfigError at the first public file that is another run's, or nobody's."""
    for path in owned(run):
        run.owner.require(path)


def public_problems(run: Run) -> list[str]:
    """What is wrong with this run's public files: missing, changed, or not written to their end."""
    return [*run.owner.problems(owned(run)), *_line_problems(run)]


def _line_problems(run: Run) -> Iterator[str]:
    """Whether test_metrics.txt holds the line of metrics.json. What is wrong with that itself is not said here."""
    results = run.config.run.public_results
    with suppress(FileNotFoundError, ArtifactError, LookupError, TypeError):  # of an earlier version
        metrics = read_json(run.metrics_file, "")
        if public_metrics_line(run.config.student.hard_weight, metrics) not in public_metrics_lines(results):
            remedy = "take a damaged one out, or delete it, and run 'ckd evaluate' again"
            yield f"{public_metrics_file(results)}: no line holds this run's figures; {remedy}"
