"""Job: export a cohort as the public JSONL files, with what LLaMA-Factory needs to tune on them; or the student."""

from argparse import ArgumentParser, Namespace

from ckd.config import Config
from ckd.visits.public_files import adapter_file, visit_file
from jobs import export_model
from jobs.arguments import described, share
from jobs.commands import COMMANDS
from jobs.console import Console, terminal_console


def add_options(parser: ArgumentParser) -> None:
    """The two formats of `ckd export` and their options."""
    formats = parser.add_subparsers(dest="format", required=True, metavar="format")
    text = "the public JSONL files of a cohort, with the files that LLaMA-Factory needs to tune the teacher"
    jsonl = formats.add_parser("jsonl", help=text, **described(text, "ckd export jsonl data/cohort --out data"))
    jsonl.add_argument("cohort", metavar="COHORT", help="folder that 'ckd ingest' made")
    out = "folder of name_train.json, name_val.json, name_test.json (default data)"
    jsonl.add_argument("--out", default="data", metavar="DIR", help=out)
    shared = "share of the train subjects on which only the adapter is tuned; run with the same teacher.adapter_share"
    shared += " (default: all of them, and the head uses all too)"
    jsonl.add_argument("--adapter-share", type=share, default=0.0, metavar="S", help=shared)
    text = "the run's student as a folder for transformers, ONNX Runtime and the Hub, with a model card"
    export_model.add_options(formats.add_parser("model", help=text, **described(text, COMMANDS["export"].line)))


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Export a cohort's labelled visits, or the run's student. Raises DataError for what cannot be used."""
    if arguments.format == "model":
        with terminal_console(config.run.folder) as events:
            export_model.run(config, events, arguments)
        return
    cohort, out, adapter_share = arguments.cohort, arguments.out, arguments.adapter_share
    from ckd.ehr.training_files import DATASETS_FILE, export
    from ckd.visits.taskfile import load_task

    done = export(cohort, out, adapter_share, load_task(config.task))
    for split, visits in done.visits.items():
        console.say(f"export: {visits:,} labelled {split} visits in {visit_file(out, split)}")
    console.say(f"export: {done.unlabeled:,} visits without labels left out")
    if adapter_share:
        console.say(
            f"export: {done.for_adapter:,} of the train visits in {adapter_file(out)}, only for the adapter; "
            f"train on them, then run with teacher.adapter_share={adapter_share:g}: head and soft labels use the others"
        )
    console.say(
        f"export: {DATASETS_FILE} lists name_train and name_val, never name_test; "
        f"recipe for LLaMA-Factory: {done.recipe}"
    )
    if done.recipe_kept:
        console.say(
            f"export: {done.recipe} was there already with other content and stays; delete it for the project's own"
        )
    if done.data_license:
        console.say(f"export: data license of the source: {done.data_license}")
    if done.credentialed:
        console.say(
            "export: WARNING: credentialed data: do not share or commit these files; "
            "the data use agreement goes with them"
        )
