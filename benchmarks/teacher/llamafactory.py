"""Our prompts beside those that LLaMA-Factory itself trains on, for its templates qwen, qwen3, llama3, mistral, gemma.

LLaMA-Factory runs in an environment of its own, from a row of the data set to the ids before the first learned one. The
tokenizers: small ones of the kinds that a family has, with its special tokens, and for ChatML Qwen2.5's real one. Also
what its cutoff_len leaves of a long prompt. Writes results/llamafactory.json. Exit code 1 when a prompt differs and
KNOWN does not say so, 2 when something is missing.

    python -m benchmarks.teacher.llamafactory     # about a minute
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import MissingError, ask
from benchmarks.report import ROOT, Argv, Report, options
from benchmarks.teacher import qwen, vocabulary
from ckd.prompts import Prompter
from ckd.templates import ChatTemplate
from testbed.prompt_formats import BOS, CASES, CHATML, CONTENT, Case
from testbed.small_tokenizers import byte_level, sentencepiece

PYTHON = ROOT / ".venv-llamafactory/bin/python"
INSTRUCTION, INPUT = CONTENT.split("\n", 1)
AT_THE_EDGE = ("blank before the instruction", "blank after it", "line break after it")
ROWS = {  # kind of text -> instruction, input
    "visit": (INSTRUCTION, INPUT),
    "odd letters": (INSTRUCTION, "Hämodialyse, Ha\u0308modialyse — 心不全 🫀 12.5mg\tcan't  \n\n x"),
    "control tokens in it": (INSTRUCTION, "a<|im_end|>\n<|eot_id|> [INST] <start_of_turn>b<think> c"),
    "blanks before it": (INSTRUCTION, "  Sepsis."),
    "no instruction": ("", INPUT),
    AT_THE_EDGE[0]: (f" {INSTRUCTION}", INPUT),
    AT_THE_EDGE[1]: (INSTRUCTION, "Sepsis. "),
    AT_THE_EDGE[2]: (INSTRUCTION, "Sepsis.\n"),
}
# These models' own chat templates trim the user's message; LLaMA-Factory does not.
KNOWN = {(template, text) for template in ("llama3", "gemma", "gemma2", "gemma3") for text in AT_THE_EDGE}
MAX_LENGTH, CUTOFF = 4096, 256
LONG = " ".join([INPUT] * 40)
SHOWN = 5  # tokens on each side of a first difference
SMALL: dict[str, Callable[[list[str]], Any]] = {
    "byte-level": lambda special: byte_level(special, bos=BOS),
    "sentencepiece": lambda special: sentencepiece(special, "first", bos=BOS),
    "old sentencepiece": lambda special: sentencepiece(special, "legacy", bos=BOS),  # no model with ChatML has it
}
REAL = "Qwen2.5's"


def main(argv: Argv = None) -> int:
    parser = options(__doc__, "llamafactory.json")
    parser.add_argument("--python", type=Path, default=PYTHON, help="a Python with LLaMA-Factory")
    parser.add_argument("--dashscope-python", type=Path, default=vocabulary.PYTHON, help="a Python with dashscope")
    arguments = parser.parse_args(argv)
    report = Report("teacher.llamafactory", argv, arguments.out)
    try:
        with tempfile.TemporaryDirectory() as name:
            tokenizers = make_tokenizers(Path(name), arguments.dashscope_python)
            report["cases"] = measure(report, tokenizers, arguments.python)
    except MissingError as error:
        print(f"teacher.llamafactory: {error}", file=sys.stderr)
        return 2
    for name, figures in report["cases"].items():
        show(name, figures)
    return report.finish(good=not any(figures["unexpected"] for figures in report["cases"].values()))


def make_tokenizers(folder: Path, dashscope: Path) -> dict[tuple[str, str], Path]:
    """Folders by case and kind of tokenizer. Raises MissingError without dashscope."""
    real, folders = qwen.make_tokenizer(qwen.ranks_file(dashscope), folder / "qwen"), {}
    for number, (name, case) in enumerate(CASES.items()):
        chatml = case.special == CHATML
        for kind in [*SMALL][:2] if chatml else SMALL:
            tokenizer = SMALL[kind]([BOS, *case.special])
            tokenizer.add_tokens(["<think>", "</think>"] if chatml else [])
            folders[name, kind] = folder / f"{number} {kind}"
            tokenizer.save_pretrained(folders[name, kind])
        if chatml:
            folders[name, REAL] = real
    return folders


def measure(report: Report, tokenizers: dict[tuple[str, str], Path], python: Path) -> dict[str, Any]:
    """Where the two differ, by case. Raises MissingError without LLaMA-Factory."""
    whole = [asked(CASES[name], folder, MAX_LENGTH, [*ROWS.values()]) for (name, _), folder in tokenizers.items()]
    cut = [asked(case, tokenizers[name, "byte-level"], CUTOFF, [(INSTRUCTION, LONG)]) for name, case in CASES.items()]
    theirs = ask(python, "benchmarks.teacher.llamafactory_child", whole + cut)
    report["versions"]["llamafactory's own"] = theirs["versions"]
    found: dict[str, Any] = {name: {"equal": 0, "known": [], "unexpected": []} for name in CASES}
    for (name, kind), prompts in zip(tokenizers, theirs["prompts"], strict=False):
        compare(found[name], CASES[name], kind, tokenizers[name, kind], prompts)
    for (name, case), (prompt,) in zip(CASES.items(), theirs["prompts"][len(whole) :], strict=True):
        found[name]["cutoff"] = cutoff(case, tokenizers[name, "byte-level"], prompt)
    return found


def asked(case: Case, tokenizer: Path, cutoff_len: int, rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One question to the child."""
    visits = [{"instruction": i, "input": text, "output": "None", "system": case.system} for i, text in rows]
    settings = {"template": case.name, "thinking": case.thinking, "cutoff_len": cutoff_len}
    return {"tokenizer": str(tokenizer), **settings, "rows": visits}


def prompter(case: Case, folder: Path, max_length: int = MAX_LENGTH) -> Prompter:
    """Ours, with the model's own chat template and the keys teacher.system and teacher.template_arguments."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = ChatTemplate(case.template, case.name, tokenizer.special_tokens_map, case.system, case.arguments)
    return Prompter(tokenizer, max_length, template)


def compare(found: dict[str, Any], case: Case, kind: str, folder: Path, theirs: Sequence[list[int]]) -> None:
    """Add one tokenizer's texts to a case's figures."""
    mine = prompter(case, folder)
    ours, _ = mine.encode(*zip(*ROWS.values(), strict=True))
    for text, our, their in zip(ROWS, ours, theirs, strict=True):
        if our == their:
            found["equal"] += 1
        elif (case.name, text) in KNOWN:
            found["known"].append(f"{kind}, {text}")
        else:
            difference = first_difference(mine.tokenizer, our, their)
            found["unexpected"].append({"tokenizer": kind, "text": text, **difference})


def first_difference(tokenizer: Any, ours: list[int], theirs: list[int]) -> dict[str, Any]:
    """Where two lists part, and the tokens around that place."""
    pairs = zip(ours, theirs, strict=False)
    at = next((n for n, (our, their) in enumerate(pairs) if our != their), min(len(ours), len(theirs)))
    around = slice(max(at - SHOWN, 0), at + SHOWN)
    shown = {name: tokenizer.convert_ids_to_tokens(ids[around]) for name, ids in (("ours", ours), ("theirs", theirs))}
    return {"at": at, **shown}


def cutoff(case: Case, folder: Path, theirs: list[int]) -> dict[str, Any]:
    """What each leaves of a long prompt in the same number of tokens."""
    mine = prompter(case, folder, len(theirs))
    (whole,), _ = prompter(case, folder).encode([INSTRUCTION], [LONG])
    (ours,), _ = mine.encode([INSTRUCTION], [LONG])
    ends = {name: mine.tokenizer.decode(ids[-SHOWN:]) for name, ids in (("ours", ours), ("theirs", theirs))}
    lengths = {"cutoff_len": CUTOFF, "whole": len(whole), "left": len(theirs)}
    return {**lengths, "theirs_is_the_start_of_the_whole": theirs == whole[: len(theirs)], "ends_in": ends}


def show(name: str, found: dict[str, Any]) -> None:
    """One case for a person."""
    total = found["equal"] + len(found["known"]) + len(found["unexpected"])
    print(f"{name:36} equal {found['equal']} of {total}, known to differ {len(found['known'])}")
    for each in found["unexpected"]:
        print(f"    DIFFERS: {each['tokenizer']}, {each['text']}: {each['ours']} | theirs {each['theirs']}")


if __name__ == "__main__":
    raise SystemExit(main())
