"""The public files of a run: which they are, and whether they are its own."""

from collections.abc import Mapping

from ckd.run import Run
from ckd.visits.public_files import clean_file, head_file, results_file, soft_label_file, student_file


def owned(run: Run) -> Mapping[str, str]:
    """Path -> the key that gives it another place, of every public file that one run alone writes.

    `test_metrics.txt` is not among them: runs append their lines to it, as the public code does.
    """
    places, weight = run.config.run, run.config.student.hard_weight
    splits = ("train", "val")
    public = [soft_label_file(places.public_files, split) for split in splits]
    public += [clean_file(places.public_files, split) for split in splits]
    public.append(head_file(places.public_files))
    results = [student_file(places.results, weight), results_file(places.results, weight)]
    return dict.fromkeys(public, "run.public_files") | dict.fromkeys(results, "run.results")


def require_own(run: Run) -> None:
    """Raise ConfigError at the first public file that is another run's, or nobody's."""
    for path, key in owned(run).items():
        run.owner.require(path, key)


def public_problems(run: Run) -> list[str]:
    """What is wrong with this run's public files: missing, changed, or not written to their end."""
    return list(run.owner.problems(owned(run)))
