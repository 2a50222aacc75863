"""What several commands take on the command line: a configuration with overrides, and numbers in a range."""

import argparse
import textwrap
from typing import Any

from jobs.commands import Command

EXIT_CODES = (
    "exit codes: 0 done, 1 bug, 2 config or input, 3 incomplete (some shards failed; run again), or storage or cluster "
    "do not answer, or SIGTERM or SIGHUP came, 130 stopped by Ctrl-C"
)
ADDRESS = "the cluster's dashboard, http://HEAD:8265; without it RAY_ADDRESS"


def described(text: str, example: str) -> dict[str, Any]:
    """What a parser is made with: what its command does, an example of it, and the exit codes."""
    return {
        "description": text,
        "epilog": f"example:\n  {example}\n\n{textwrap.fill(EXIT_CODES)}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def add_config(parser: argparse.ArgumentParser, command: Command) -> None:
    """--config and the words behind it, and --dry-run where the command has it."""
    without = "jobs/demo.yaml" if command.config else "the defaults hold"
    without = "what the run itself saved, results/<run>/config.yaml" if command.looks else without
    parser.add_argument(
        "--config", metavar="YAML", help=f"configuration file, such as jobs/default.yaml; without it {without}"
    )
    files = "input files; and " if "FILE" in command.words else ""
    parser.add_argument(
        "words", nargs="*", metavar=command.words, help=f"{files}dotted overrides, such as {command.example}"
    )
    if command.dry_run:
        parser.add_argument(
            "--dry-run", action="store_true", help="print the resolved configuration and the plan, start nothing"
        )


def add_student(parser: argparse.ArgumentParser) -> None:
    """--model and --engine: a finished student and what computes it."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="results/<run>/student, or a folder that 'ckd export model' made; path or URL",
    )
    parser.add_argument(
        "--engine", choices=("torch", "onnx", "onnx-int8"), default="torch", help="what computes (default torch)"
    )


def amount(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def share(text: str) -> float:
    """A number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share between 0 and 1, such as .5")
    return number


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 1 or more")
    return number
