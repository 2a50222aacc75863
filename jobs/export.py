"""Job: a cohort as the public JSONL files, with what LLaMA-Factory needs to tune the teacher on them."""

import sys

from ckd.compat import visit_file
from jobs.cli import main
from jobs.console import Console


def run(cohort: str, out: str, console: Console) -> None:
    """Export the labelled visits of the folder `cohort` to `out`. Raises DataError when the cohort, or what lies in `out`, cannot be used."""
    from ckd.ehr.training_files import DATASETS_FILE, export

    done = export(cohort, out)
    for split, visits in done.visits.items():
        console.say(f"export: {visits:,} labelled {split} visits in {visit_file(out, split)}")
    console.say(f"export: {done.unlabeled:,} visits without labels left out")
    console.say(f"export: {DATASETS_FILE} lists name_train and name_val, never name_test; recipe for LLaMA-Factory: {done.recipe}")
    if done.recipe_kept:
        console.say(f"export: {done.recipe} was there already with other content and stays; delete it for the project's own")
    if done.data_license:
        console.say(f"export: data license of the source: {done.data_license}")
    if done.credentialed:
        console.say("export: WARNING: credentialed data: do not share or commit these files; the data use agreement goes with them")


if __name__ == "__main__":
    raise SystemExit(main(["export", *sys.argv[1:]]))
