"""What can be typed after `ckd`: commands, options and their help. What a command does belongs to cli and its job."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckd import __version__

Start = Callable[[argparse.Namespace], None]
COMMANDS = {
    "run": ("pipeline", "the whole pipeline: visits to metrics and report; continues where an earlier run stopped"),
    "validate": ("validate", "read input files, count and locate bad rows; no model is loaded"),
    "embed": ("embed", "prepare the visits and embed each once with the teacher"),
    "train-head": ("train_head", "fit the 25-label head and its cross-fitting folds on the embeddings"),
    "soft-labels": ("soft_labels", "turn embeddings into soft labels; write the public hands_name_*.json"),
    "train-student": ("train_student", "distil hard and soft labels into the student"),
    "evaluate": ("evaluate", "score student, teacher and baselines on held_out; write metrics.json"),
    "report": ("report", "results/<run>/report.html from the run's artifacts: one offline page"),
    "verify": ("verify", "prove that every visit_id is once in every artifact, no NaN, values in range"),
    "status": ("status", "shards done and missing of every stage"),
    "plan": (
        "plan",
        "before paying: tokens of a sample, GPU-hours, cost on demand and on spot, disk; starts and writes nothing",
    ),
    "doctor": ("doctor", "is this machine, or the cluster, fit for a run: each line ok or what to do"),
    "demo": ("demo", "make a synthetic cohort and tiny models, run everything on them"),
}
SUBMITTED = ("run", "embed", "train-head", "soft-labels", "train-student", "evaluate", "verify", "doctor")
ADDRESS = "the cluster's dashboard, http://HEAD:8265; without it RAY_ADDRESS"
SOURCES = {
    "mimic3": "MIMIC-III tables, CSV or CSV.gz",
    "mimic4": "MIMIC-IV tables (DIR/hosp), ICD-9 and ICD-10",
    "tables": "the generic tables of docs/tables.md, Parquet or CSV",
    "meds": "MEDS shards with hadm_id",
}
CONFIGS = {
    "demo": str(Path(__file__).with_name("demo.yaml"))
}  # what a command reads without --config; the others: defaults alone
FILES = {"validate"}  # commands that take input files before the overrides; they only read: no run, no events.jsonl
EXIT_CODES = "exit codes: 0 done, 1 bug, 2 config or input, 3 incomplete (some shards failed; run again), or storage or cluster do not answer"
OPTIONS = {"plan", "doctor"}  # of COMMANDS, those with options of their own


def make_parser(starts: Mapping[str, Start]) -> argparse.ArgumentParser:
    """The whole command line; `starts` names what each command sets off, "" what a stage does."""
    parser = argparse.ArgumentParser(
        prog="ckd", description="Distil a LoRA-tuned language model over patient visits into a BERT-size student."
    )
    parser.epilog = EXIT_CODES
    parser.add_argument("--version", action="version", version=f"ckd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, text) in COMMANDS.items():
        command = _command(commands, name, text, starts.get(name, starts[""]))
        _add_config(
            command,
            takes="FILE | key=value" if name in FILES else "key=value",
            example="data.train=data/name_train.json teacher.workers=0..8",
        )
        if name in OPTIONS:
            _add_options(name, command)
        else:
            command.add_argument(
                "--dry-run", action="store_true", help="print the resolved configuration and the plan, start nothing"
            )
        if name == "run":
            command.add_argument(
                "--adapter-share", type=_share, metavar="S", help="the same as teacher.adapter_share=S"
            )
    _add_data_commands(commands, starts)
    _add_predict(commands, starts)
    _add_serve(commands, starts)
    _add_submit(commands, starts)
    return parser


def _add_options(name: str, command: argparse.ArgumentParser) -> None:
    if name == "doctor":
        command.add_argument(
            "--address", default="", metavar="URL", help=f"{ADDRESS}; without both this machine is looked at"
        )
        command.add_argument(
            "--wake",
            action="store_true",
            help="wait up to 10 minutes for a worker of each kind, so that an autoscaler starts one",
        )
        return
    command.add_argument(
        "--price",
        type=_amount,
        default=0.0,
        metavar="P",
        help="one GPU-hour on demand; without it teacher.price_per_hour",
    )
    command.add_argument(
        "--spot-price", type=_amount, default=0.0, metavar="P", help="one GPU-hour on spot, in the same currency"
    )
    rate = "visits/s of one worker of the teacher, as an earlier run's embed_accounting says; without it from the model's size"
    command.add_argument("--visits-per-second", type=_amount, default=0.0, metavar="R", help=rate)


def _add_submit(commands: Any, starts: Mapping[str, Start]) -> None:
    text = "run a stage, or the whole pipeline, as a job of a Ray cluster; again: attaches to it, or continues after it"
    submit = _command(commands, "submit", text, starts["submit"])
    submit.add_argument("stage", choices=SUBMITTED, metavar="STAGE", help=", ".join(SUBMITTED))
    submit.add_argument("--address", default="", metavar="URL", help=ADDRESS)
    submit.add_argument(
        "--follow", action="store_true", help="show the job's log until it ends; its exit code becomes this command's"
    )
    resource = (
        "custom resource of machines that stay, of which the driver reserves a bit (default on_demand; '' for none)"
    )
    submit.add_argument("--resource", default="on_demand", metavar="NAME", help=resource)
    submit.add_argument("--dry-run", action="store_true", help="print the job's id and command, submit nothing")
    _add_config(submit, takes="key=value", example="data.train=s3://bucket/cohort teacher.workers=0..8")


def _add_data_commands(commands: Any, starts: Mapping[str, Start]) -> None:
    ingest = _command(
        commands,
        "ingest",
        "hospital tables to a cohort of next-visit pairs, which is a valid data.train with its own splits",
        starts["ingest"],
    )
    ingest.add_argument("source", choices=SOURCES, help="; ".join(f"{name}: {text}" for name, text in SOURCES.items()))
    ingest.add_argument("folder", metavar="DIR", help="folder of the tables")
    ingest.add_argument(
        "--out", required=True, metavar="DIR", help="the cohort: Parquet parts, card.json, association.csv"
    )
    _add_config(
        ingest,
        takes="key=value",
        example="ingest.coding_delay_days=5 ingest.treatment=none (docs/configuration.md, section ingest)",
    )
    synth = _command(
        commands,
        "synth",
        "MIMIC-III-shaped tables of synthetic patients, any number, equal for equal seeds",
        starts["synth"],
    )
    synth.add_argument(
        "--patients", type=_positive, required=True, metavar="N", help="number of patients; about 4.3 visits each"
    )
    synth.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the generator (default 1)")
    synth.add_argument("--out", required=True, metavar="DIR", help="folder of the tables")
    export = _command(commands, "export", "a cohort or a student in other formats", None)
    formats = export.add_subparsers(dest="format", required=True, metavar="format")
    jsonl = _command(
        formats,
        "jsonl",
        "the public JSONL files of a cohort, with the files that LLaMA-Factory needs to tune the teacher",
        starts["export jsonl"],
    )
    jsonl.add_argument("cohort", metavar="COHORT", help="folder that 'ckd ingest' made")
    jsonl.add_argument(
        "--out",
        default="data",
        metavar="DIR",
        help="folder of name_train.json, name_val.json, name_test.json (default data)",
    )
    share = "share of the train subjects on which alone the adapter is tuned; run with the same teacher.adapter_share"
    jsonl.add_argument(
        "--adapter-share",
        type=_share,
        default=0.0,
        metavar="S",
        help=f"{share} (default: all of them, and the head uses all too)",
    )
    model = _command(
        formats,
        "model",
        "the run's student as a folder for transformers, ONNX Runtime and the Hub, with a model card",
        starts["export model"],
    )
    model.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the folder; it is never written over files that are no export of this student",
    )
    model.add_argument(
        "--onnx",
        action="store_true",
        help="also model.onnx (float32) and model.int8.onnx, compared with torch before anything is kept",
    )
    _add_config(model, takes="key=value", example="run.name=mine")


def _add_predict(commands: Any, starts: Mapping[str, Start]) -> None:
    predict = _command(
        commands,
        "predict",
        "predict any number of visits with a finished student; continues where it stopped",
        starts["predict"],
    )
    predict.add_argument(
        "input",
        metavar="INPUT",
        help="JSONL (.json, .jsonl, .gz), Parquet file, or a folder of Parquet parts; labels are not needed",
    )
    predict.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="results/<run>/student, or a folder that 'ckd export model' made; path or URL",
    )
    predict.add_argument(
        "--out", required=True, metavar="PREDS", help="folder or URL; Parquet parts go to PREDS/predictions"
    )
    predict.add_argument(
        "--engine", choices=("torch", "onnx", "onnx-int8"), default="torch", help="what computes (default torch)"
    )
    predict.add_argument("--meds", default="", metavar="DIR", help="also one MEDS-evaluation table per label in DIR")
    _add_config(predict, takes="key=value", example="student.workers=2 data.max_bad_rows=10")


def _add_serve(commands: Any, starts: Mapping[str, Start]) -> None:
    serve = _command(
        commands,
        "serve",
        "a finished student over HTTP: /predict, /healthz, /metrics, /docs; loopback unless told otherwise",
        starts["serve"],
    )
    serve.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="results/<run>/student, or a folder that 'ckd export model' made; path or URL",
    )
    serve.add_argument(
        "--engine", choices=("torch", "onnx", "onnx-int8"), default="torch", help="what computes (default torch)"
    )
    serve.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="beyond loopback only with a token (default 127.0.0.1)"
    )
    serve.add_argument(
        "--port", type=int, default=8000, metavar="N", help="0 takes a free one and prints it (default 8000)"
    )
    text = "what every request but /healthz must bring; without it the variable CKD_SERVE_TOKEN"
    serve.add_argument("--token-file", metavar="FILE", help=text)


def _amount(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share between 0 and 1, such as .5")
    return number


def _command(commands: Any, name: str, text: str, start: Start | None) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
    command.set_defaults(start=start)
    return command


def _add_config(command: argparse.ArgumentParser, takes: str, example: str) -> None:
    without = "jobs/demo.yaml" if command.prog.split()[-1] in CONFIGS else "the defaults hold"
    command.add_argument(
        "--config", metavar="YAML", help=f"configuration file, such as jobs/default.yaml; without it {without}"
    )
    command.add_argument("words", nargs="*", metavar=takes, help=f"dotted overrides, such as {example}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of patients; expected 1 or more")
    return number
