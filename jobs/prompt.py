"""Job: show one prompt as the teacher gets it, of an invented visit. Reads no visits and no weights, writes nothing.

A prompt other than the one of its training costs a teacher much of what it learned, and no error says so.
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.prompts import Prompter, content
from ckd.teacher.chat_template import load_prompter
from ckd.teacher.prompt_identity import PROBES, Identity, base_tokenizer, identity_of
from ckd.teacher.training_settings import differences
from ckd.templates import DATE
from ckd.visits.grammar import render_input
from ckd.visits.taskfile import load_task
from jobs.arguments import positive
from jobs.console import Console

_DRUGS = [f"Invented drug {n} {n % 7 + 1}00mg" for n in range(1, 400)]
VISITS = {
    "an ordinary visit": render_input(
        ["Congestive heart failure, unspecified", "Acute kidney failure"],
        ["Furosemide", "Sodium Chloride 0.9% Flush"],
        ["Hemodialysis"],
        {"Congestive heart failure; nonhypertensive": ["Furosemide", "Metoprolol Tartrate"]},
    ),
    "a visit of which nothing is known": render_input([], [], [], {}),
    "a visit of other scripts and signs": PROBES[0],
    "a very long visit": render_input(["Septicemia"], _DRUGS, [], {}),
}
_SHOWN = 6  # tokens at either end


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd prompt`."""
    parser.add_argument(
        "--row", type=positive, default=1, metavar="N", help=f"which of {len(VISITS)} invented visits (default 1)"
    )


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Print the prompt and what decides it. Raises ConfigError for a template or tokenizer that cannot be used."""
    if arguments.row > len(VISITS):
        raise ConfigError(
            f"--row {arguments.row}: there are {len(VISITS)} invented visits; expected 1 to {len(VISITS)}"
        )
    tokenizer = base_tokenizer(config.teacher)
    prompter = load_prompter(config.teacher, tokenizer)
    name, text = list(VISITS.items())[arguments.row - 1]
    console.say(f"prompt: row {arguments.row} of {len(VISITS)}: {name}, which is invented")
    for line in _prompt(prompter, load_task(config.task).question, text):
        console.say(line)
    for line in _settings(config, prompter, identity_of(config.teacher, tokenizer)):
        console.say(f"prompt: {line}")


def _prompt(prompter: Prompter, instruction: str, text: str) -> Iterator[str]:
    (ids,), cut = prompter.encode([instruction], [text])
    yield prompter.tokenizer.decode(ids) if cut else prompter.template.render(content(instruction, text))
    tokens = prompter.tokenizer.convert_ids_to_tokens(ids)
    shown = [f"{token!r} {number}" for token, number in zip(tokens, ids, strict=True)]
    lost = ", the visit's end is lost" if cut else ""
    yield f"prompt: {len(ids)} tokens of at most teacher.max_length={prompter.max_length}{lost}"
    yield f"prompt: they begin with {', '.join(shown[:_SHOWN])}"
    yield f"prompt: and end in {', '.join(shown[-_SHOWN:])}"


def _settings(config: Config, prompter: Prompter, found: Identity) -> Iterator[str]:
    teacher, template = config.teacher, prompter.template
    yield f"template: {found.source} ({found.template})"
    system = f"{len(teacher.system)} characters" if teacher.system else "none given: what the template does then holds"
    yield f"teacher.system: {system}"
    read = ", ".join(sorted(template.options)) or "none"
    yield f"teacher.template_arguments: {json.dumps(teacher.template_arguments)}; the template reads {read}"
    date = f"{DATE:%d} Jul {DATE:%Y} for a template that asks" if template.asks_for_the_date else "none is asked for"
    yield f"date: {date}"
    if found.note:
        yield found.note
    yield from differences(teacher, found)
