"""The `ckd` command: arguments, exit codes, and which job a command names. Imports a job only when it runs, so help and errors are quick."""

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from ckd import __version__
from ckd.config import Config, dump, load
from ckd.errors import CkdError
from jobs.console import Console, terminal_console

COMMANDS = {
    "run": ("pipeline", "the whole pipeline: visits to metrics; continues where an earlier run stopped"),
    "validate": ("validate", "read input files, count and locate bad rows; no model is loaded"),
    "embed": ("embed", "prepare the visits and embed each once with the teacher"),
    "train-head": ("train_head", "fit the 25-label head and its cross-fitting folds on the embeddings"),
    "soft-labels": ("soft_labels", "turn embeddings into soft labels; write the public hands_name_*.json"),
    "train-student": ("train_student", "distil hard and soft labels into the student"),
    "evaluate": ("evaluate", "score student, teacher and baselines on held_out; write metrics.json"),
    "verify": ("verify", "prove that every visit_id is once in every artifact, no NaN, values in range"),
    "status": ("status", "shards done and missing of every stage"),
    "demo": ("demo", "make a synthetic cohort and tiny models, run everything on them"),
}
CONFIGS = {"demo": str(Path(__file__).with_name("demo.yaml"))}  # what a command reads without --config; the others: defaults alone
FILES = {"validate"}  # commands that take input files before the overrides; they only read: no run, no events.jsonl
EXIT_CODES = "exit codes: 0 done, 1 bug, 2 config or input, 3 incomplete (some shards failed; run again)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. User errors are one line on standard error."""
    _hush_libraries()
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    overrides = [word for word in arguments.words if "=" in word]
    files = [word for word in arguments.words if "=" not in word]
    try:
        if files and arguments.command not in FILES:
            raise CkdError(f"'{files[0]}': expected key=value, such as data.train=data/name_train.json; see 'ckd {arguments.command} --help'")
        config = load(arguments.config or CONFIGS.get(arguments.command), overrides)
        console = terminal_console("" if arguments.command in FILES else config.run.folder)
        _job(arguments)(config, console, *([files] if arguments.command in FILES else []))
    except CkdError as error:
        sys.stderr.write(f"ckd: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("ckd: stopped; finished shards are kept, run the same command again to continue\n")
        return 130
    return 0


def _hush_libraries() -> None:
    """Drop the libraries' notes that a user can do nothing about, such as the guess of a device that the configuration names."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|torch|peft|ray)\b")
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def _job(arguments: argparse.Namespace) -> Callable[..., None]:
    if arguments.dry_run:
        return _dry_run
    module = importlib.import_module(f"jobs.{COMMANDS[arguments.command][0]}")
    run: Callable[..., None] = module.run
    return run


def _dry_run(config: Config, console: Console, *_: object) -> None:
    from jobs.status import plan

    console.say(dump(config))
    for line in plan(config):
        console.say(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ckd", description="Distil a LoRA-tuned language model over patient visits into a BERT-size student.")
    parser.epilog = EXIT_CODES
    parser.add_argument("--version", action="version", version=f"ckd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        command.add_argument(
            "--config",
            metavar="YAML",
            help=f"configuration file, such as jobs/default.yaml; without it {'jobs/demo.yaml' if name in CONFIGS else 'the defaults hold'}",
        )
        command.add_argument("--dry-run", action="store_true", help="print the resolved configuration and the plan, start nothing")
        takes = "FILE | key=value" if name in FILES else "key=value"
        command.add_argument("words", nargs="*", metavar=takes, help="dotted overrides, such as data.train=data/name_train.json teacher.workers=0..8")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
