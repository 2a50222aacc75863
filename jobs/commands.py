"""The commands of `ckd`. Each is a module of jobs with `run(config, console, arguments)`, and `add_options(parser)`
where it has options. A module is imported only when its command runs, so that `ckd --help` is quick.
"""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ckd.config import Config
from jobs.console import Console

RunCommand = Callable[[Config, Console, argparse.Namespace], None]


@dataclass(frozen=True)
class Command:
    """One command: its module, its help, what it takes, and where its events go."""

    module: str
    help: str
    words: str = "key=value"  # the positional arguments beside the options; "" for none
    example: str = "data.train=data/name_train.json teacher.workers=0..8"
    config: str = ""  # the file that is read without --config
    events: str = "run"  # events.jsonl lies in the run's folder, in --out, or nowhere ("")
    computes: bool = False  # on a cluster it takes shared paths only
    submitted: bool = False  # `ckd submit` can hand it to a cluster
    dry_run: bool = False  # has --dry-run

    @property
    def line(self) -> str:
        """An example of the whole command, as one types it."""
        return f"ckd {LINES[self.module]}"

    @property
    def saves(self) -> bool:
        """Whether it leaves its resolved configuration in results/<run>/config.yaml."""
        return self.computes or self.module == "demo"

    @property
    def looks(self) -> bool:
        """Whether it takes that configuration where none is given: it is about what a run has made."""
        return self.module in ("report", "evaluate", "status", "verify", "export_model")

    def load(self) -> ModuleType:
        """The module of the command."""
        return importlib.import_module(f"jobs.{self.module}")


def _stage(module: str, text: str) -> Command:
    return Command(module, text, computes=True, submitted=True, dry_run=True)


COMMANDS = {
    "run": _stage(
        "pipeline", "the whole pipeline: visits to metrics and report; continues where an earlier run stopped"
    ),
    "validate": Command(
        "validate",
        "read input files, count and locate bad rows; no model is loaded",
        words="FILE | key=value",
        events="",
        dry_run=True,
    ),
    "embed": _stage("embed", "prepare the visits and embed each once with the teacher"),
    "train-head": _stage("train_head", "fit the head and its cross-fitting folds on the embeddings"),
    "soft-labels": _stage("soft_labels", "turn embeddings into soft labels; write the public hands_name_*.json"),
    "train-student": _stage("train_student", "distil hard and soft labels into the student"),
    "evaluate": _stage("evaluate", "score student, teacher and baselines on held_out; write metrics.json"),
    "report": Command("report", "results/<run>/report.html from the run's artifacts: one offline page", dry_run=True),
    "verify": Command(
        "verify",
        "prove that every visit_id is once in every artifact, no NaN, values in range",
        submitted=True,
        dry_run=True,
    ),
    "status": Command("status", "shards done and missing of every stage", dry_run=True),
    "plan": Command(
        "plan",
        "before paying: tokens of a sample, GPU-hours, cost on demand and on spot, disk; starts and writes nothing",
        events="",
    ),
    "prompt": Command(
        "prompt",
        "one prompt of an invented visit as the teacher gets it, to compare with its training; no weights are read",
        example="teacher.template_arguments.enable_thinking=false",
        events="",
    ),
    "doctor": Command(
        "doctor",
        "is this machine, or the cluster, fit for a run: each line ok or what to do",
        events="",
        submitted=True,
    ),
    "demo": Command(
        "demo",
        "make a synthetic cohort and tiny models, run everything on them",
        config=str(Path(__file__).with_name("demo.yaml")),
        dry_run=True,
    ),
    "ingest": Command(
        "ingest",
        "hospital tables to a cohort of next-visit pairs, which is a valid data.train with its own splits",
        example="ingest.coding_delay_days=5 ingest.treatment=none (docs/configuration.md, section ingest)",
        events="",
    ),
    "synth": Command(
        "synth",
        "MIMIC-III-shaped tables of synthetic patients, any number, equal for equal seeds",
        words="",
        events="",
    ),
    "export": Command("export", "a cohort or a student in other formats", words="", events=""),
    "predict": Command(
        "predict",
        "predict any number of visits with a finished student; continues where it stopped",
        example="student.workers=2 data.max_bad_rows=10",
        events="out",
    ),
    "serve": Command(
        "serve",
        "a finished student over HTTP: /predict, /healthz, /metrics, /docs; loopback unless --host names another",
        words="",
        events="",
    ),
    "submit": Command(
        "submit",
        "run a stage, or the whole pipeline, as a job of a Ray cluster; again: attaches to it, or continues after it",
        example="data.train=s3://bucket/cohort teacher.workers=0..8",
        events="",
    ),
}

GROUPS = {  # of `ckd --help`
    "data": ("ingest", "synth", "validate"),
    "run": ("run", "embed", "train-head", "soft-labels", "train-student", "evaluate", "report", "submit", "demo"),
    "inspect": ("doctor", "plan", "prompt", "status", "verify"),
    "use": ("export", "predict", "serve"),
}
_YAML = "--config jobs/default.yaml"
LINES = {  # module -> an example of its command
    "pipeline": f"run {_YAML} data.train=data/cohort data.tuning= run.name=first",
    "validate": "validate data/name_train.json data/name_val.json",
    "embed": f"embed {_YAML} teacher.workers=0..8 run.name=first",
    "train_head": f"train-head {_YAML} head.epochs=30 run.name=first",
    "soft_labels": f"soft-labels {_YAML} run.name=first",
    "train_student": f"train-student {_YAML} student.workers=1..4 run.name=first",
    "evaluate": "evaluate run.name=first evaluation.threshold_for=sensitivity evaluation.threshold_target=0.8",
    "report": "report run.name=first",
    "verify": "verify run.name=first",
    "status": "status run.name=first",
    "plan": f"plan {_YAML} --price 2.5 --spot-price 0.9",
    "prompt": f"prompt {_YAML} teacher.template_arguments.enable_thinking=false",
    "doctor": f"doctor {_YAML}",
    "demo": "demo run.results=~/ckd-demo",
    "ingest": "ingest mimic4 ~/mimic-iv --out data/cohort ingest.coding_delay_days=5",
    "synth": "synth --patients 5000 --out data/synthetic",
    "export": "export model --out models/first run.name=first --onnx",
    "predict": "predict data/visits.jsonl --model results/first/student --out predictions",
    "serve": "serve --model results/first/student --port 8000",
    "submit": f"submit run {_YAML} --follow data.train=s3://bucket/cohort data.tuning= "
    "teacher.adapter=s3://bucket/adapter run.results=s3://bucket/results",
}
