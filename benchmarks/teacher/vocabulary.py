"""Prompt lengths and truncation with Qwen2.5's real vocabulary, on the open MIMIC demos or your own visits.

Checks every visit: a prompt that fits is what apply_chat_template makes and what dashscope's own tokenizer makes, its
ids decode to its text, and a truncated prompt is the start of the whole one with the template's tail, max_length tokens
long. Writes results/vocabulary.json, figures only. Exit code 1 when a check fails, 2 when something is missing.

    python -m benchmarks.teacher.vocabulary [--visits FILE_OR_FOLDER ...]     # about a minute
"""

import os
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import MissingError, ask
from benchmarks.report import ROOT, Argv, Report, options
from benchmarks.teacher.qwen import make_tokenizer, ranks_file
from ckd.prompts import Prompter, content
from ckd.teacher.prefix import shared_prefix
from ckd.visits.inputs import BadRow, Input
from ckd.visits.labels import CCS25, INSTRUCTION

PYTHON = ROOT / ".venv-dashscope/bin/python"
OPEN_DATA = Path(os.environ.get("CKD_OPEN_DATA", ROOT.parent / "shared" / "data"))
DEMOS = {"mimic3": "mimic3_demo", "mimic4": "mimic4_demo"}
MAX_LENGTHS = (512, 768, 1024, 1280, 1536)
ODD = (  # texts that tokenizers disagree on
    "  two blanks,\ttab \n\n\n three lines \r\n",
    "4711 12.5mg 1/2",
    "can't, CAN'T, we'll, It'S",
    "Hämodialyse — naïve",
    "Ha\u0308modialyse",
    "心不全と敗血症",
    "🫀🩺",
    "xyz",
    "        indented",
    "<|im_start|>system\n<|im_end|>",
    "\u200b\ufeff",
)
ODD_LENGTH = 4000  # characters: each text is repeated, so that it is truncated
Texts = tuple[list[str], list[str]]  # instructions and inputs of the same visits


def main(argv: Argv = None) -> int:
    parser = options(__doc__, "vocabulary.json")
    parser.add_argument("--visits", nargs="+", type=Path, help="JSONL or Parquet; default: the demos in CKD_OPEN_DATA")
    parser.add_argument("--python", type=Path, default=PYTHON, help="a Python with dashscope and tiktoken")
    arguments = parser.parse_args(argv)
    report = Report("teacher.vocabulary", argv, arguments.out)
    try:
        with tempfile.TemporaryDirectory() as name:
            places = arguments.visits or ingest_demos(Path(name))
            report["cohorts"] = measure(report, [Path(place) for place in places], arguments.python, Path(name))
    except MissingError as error:
        print(f"teacher.vocabulary: {error}", file=sys.stderr)
        return 2
    failed = Counter()
    for place, figures in report["cohorts"].items():
        show(place, figures)
        failed += Counter(figures["failed_checks"])
    print("all checks hold" if not failed else f"FAILED CHECKS, by number of visits: {dict(failed)}")
    return report.finish(good=not failed)


def ingest_demos(folder: Path) -> list[Path]:
    """The demos as cohorts, made by `ckd ingest`. Raises MissingError when they are not here."""
    cohorts = []
    for kind, demo in DEMOS.items():
        if not (OPEN_DATA / demo).exists():
            raise MissingError(
                f"no {OPEN_DATA / demo}: name visits with --visits, or the demos' folder in CKD_OPEN_DATA"
            )
        cohorts.append(folder / demo)
        command = [sys.executable, "-m", "jobs", "ingest", kind, str(OPEN_DATA / demo), "--out", str(cohorts[-1])]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return cohorts


def read(place: Path) -> Texts:
    """Instructions and inputs of the usable rows."""
    visits = [row for row in Input(str(place), "train", CCS25).rows() if not isinstance(row, BadRow)]
    return [visit.instruction for visit in visits], [visit.input for visit in visits]


def measure(report: Report, places: Sequence[Path], python: Path, folder: Path) -> dict[str, Any]:
    """The figures of each cohort, by its name. Raises MissingError without dashscope."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(ranks_file(python), folder / "qwen"))
    odd = [INSTRUCTION] * len(ODD), [text * (ODD_LENGTH // len(text)) for text in ODD]
    cohorts = {place.name: read(place) for place in places} | {"odd texts": odd}
    found = {}
    for name, texts in cohorts.items():
        rendered = [chat(tokenizer, content(*pair), tokenize=False) for pair in zip(*texts, strict=True)]
        theirs = ask(python, "benchmarks.teacher.dashscope_child", {"texts": rendered})
        report["versions"] |= theirs["versions"]
        found[name] = figures(tokenizer, texts, rendered, theirs["ids"])
    return found


def chat(tokenizer: Any, text: str, tokenize: bool) -> Any:
    """transformers' own rendering of one user message."""
    turn = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(turn, tokenize=tokenize, add_generation_prompt=True, return_dict=False)


def figures(tokenizer: Any, texts: Texts, rendered: Sequence[str], theirs: Sequence[list[int]]) -> dict[str, Any]:
    """Lengths and truncated shares of one cohort, and how many visits fail which check."""
    make = partial(Prompter, tokenizer)
    wholes, _ = make(1 << 20).encode(*texts)
    failed = check_whole(tokenizer, texts, rendered, wholes, theirs)
    tokens = np.array([len(ids) for ids in wholes])
    prefix = shared_prefix(wholes)
    truncated = {}
    for max_length in MAX_LENGTHS:
        prompts, count = make(max_length).encode(*texts)
        truncated[str(max_length)] = count / len(prompts)
        failed += check_truncated(wholes, prompts, tail_of(tokenizer), max_length)
    return {
        "visits": len(wholes),
        "tokens": {
            "mean": float(tokens.mean()),
            "median": float(np.median(tokens)),
            "p95": float(np.quantile(tokens, 0.95)),
            "max": int(tokens.max()),
        },
        "shared_prefix": prefix,
        "share_truncated": truncated,
        "failed_checks": dict(failed),
    }


def check_whole(
    tokenizer: Any, texts: Texts, rendered: Sequence[str], wholes: Sequence[list[int]], theirs: Sequence[list[int]]
) -> Counter[str]:
    """How many whole prompts differ from transformers' and from dashscope's, or do not decode to their text."""
    failed: Counter[str] = Counter()
    rows = zip(*texts, rendered, wholes, theirs, strict=True)
    for instruction, text, shown, ids, makers in rows:
        failed["not apply_chat_template's"] += ids != chat(tokenizer, content(instruction, text), tokenize=True)
        failed["not dashscope's"] += ids != makers
        # The vocabulary is of composed characters (NFC).
        failed["decode to another text"] += tokenizer.decode(ids) != unicodedata.normalize("NFC", shown)
    return +failed


def tail_of(tokenizer: Any) -> list[int]:
    """The ids that follow the user's text."""
    tail = chat(tokenizer, "visit", tokenize=False).rpartition("visit")[2]
    return list(tokenizer(tail, add_special_tokens=False)["input_ids"])


def check_truncated(
    wholes: Sequence[list[int]], prompts: Sequence[list[int]], tail: list[int], max_length: int
) -> Counter[str]:
    """How many prompts are not the whole one, or where it is too long its start and the template's tail."""
    failed: Counter[str] = Counter()
    for whole, prompt in zip(wholes, prompts, strict=True):
        expected = whole if len(whole) <= max_length else whole[: max_length - len(tail)] + tail
        failed[f"truncated otherwise at {max_length}"] += prompt != expected
        failed[f"of another length at {max_length}"] += len(prompt) != min(len(whole), max_length)
    return +failed


def show(name: str, found: dict[str, Any]) -> None:
    """One cohort for a person."""
    tokens, cut = found["tokens"], found["share_truncated"]
    print(
        f"{name}: {found['visits']} visits, tokens median {tokens['median']:.0f}, p95 {tokens['p95']:.0f}, "
        f"max {tokens['max']}, shared prefix {found['shared_prefix']}; truncated at "
        + ", ".join(f"{length}: {share:.1%}" for length, share in cut.items())
    )


if __name__ == "__main__":
    raise SystemExit(main())
