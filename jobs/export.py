"""Job: a cohort as the public JSONL files, with what LLaMA-Factory needs to tune the teacher on them."""

import sys

from ckd.visits.public_files import adapter_file, visit_file
from jobs.cli import main
from jobs.console import Console


def run(cohort: str, out: str, console: Console, adapter_share: float = 0) -> None:
    """Export the labelled visits of the folder `cohort` to `out`; with `adapter_share` a file of its own for the adapter.

    Raises DataError when the cohort, or what lies in `out`, cannot be used.
    """
    from ckd.ehr.training_files import DATASETS_FILE, export

    done = export(cohort, out, adapter_share)
    for split, visits in done.visits.items():
        console.say(f"export: {visits:,} labelled {split} visits in {visit_file(out, split)}")
    console.say(f"export: {done.unlabeled:,} visits without labels left out")
    if adapter_share:
        console.say(
            f"export: {done.for_adapter:,} of the train visits in {adapter_file(out)}, for the adapter alone; "
            f"train on them, then run with teacher.adapter_share={adapter_share:g}: head and soft labels use the others"
        )
    console.say(
        f"export: {DATASETS_FILE} lists name_train and name_val, never name_test; recipe for LLaMA-Factory: {done.recipe}"
    )
    if done.recipe_kept:
        console.say(
            f"export: {done.recipe} was there already with other content and stays; delete it for the project's own"
        )
    if done.data_license:
        console.say(f"export: data license of the source: {done.data_license}")
    if done.credentialed:
        console.say(
            "export: WARNING: credentialed data: do not share or commit these files; the data use agreement goes with them"
        )


if __name__ == "__main__":
    raise SystemExit(main(["export", *sys.argv[1:]]))
