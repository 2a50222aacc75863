"""What README, docs and messages name is there: pages and their headings, commands, options, keys, exit codes."""

import argparse
import ast
import re
import shlex
from functools import cache

import pytest

from ckd import errors
from ckd.config import Config
from ckd.section import Section
from jobs.cli import _config, _parse, main, make_parser
from jobs.commands import COMMANDS
from tests.pages import PAGES, ROOT, SHELL, blocks
from tests.test_docs import literals, messages

SECTIONS = {name: field.annotation for name, field in Config.model_fields.items()}
KEYS = {
    f"{name}.{key}"
    for name, section in SECTIONS.items()
    if isinstance(section, type) and issubclass(section, Section)
    for key in section.model_fields
}
FORMER = {"head.calibrated", "student.long_text"}  # named as keys that there were
ENDINGS = ("py", "md", "json", "jsonl", "yaml", "html", "txt", "parquet", "csv", "pt", "safetensors")
KEY = re.compile(rf"(?<![\w./-])({'|'.join(SECTIONS)})\.([a-z_]+)(?![\w/(-]|\.[a-z])")


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)


@cache
def anchors(page):
    """The names of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / name) if name else page
        if not there.exists() or (anchor and anchor not in anchors(there.resolve())):
            broken.append(target)
    assert broken == []


def options(parser):
    """All options of a command and of the commands below it."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
    below = [one for a in parser._actions if isinstance(a, argparse._SubParsersAction) for one in a.choices.values()]
    return found.union(*map(options, below))


@cache
def options_of(command):
    commands = next(a for a in make_parser(command)._actions if isinstance(a, argparse._SubParsersAction))
    return options(commands.choices[command])


def shown_commands(text):
    """Commands of ours in a page's prose and messages: what stands behind `ckd ` in backquotes or quotes."""
    return re.findall(r"[`'\"]((?:ckd|python -m jobs) [a-z][^`'\"\n]*)[`'\"]", text)


def wrong_in(command):
    """What a command names that is not there."""
    words = command.removeprefix("python -m jobs").removeprefix("ckd").split()
    if words[0] not in COMMANDS:
        return [words[0]]
    given = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"}
    return sorted(given - options_of(words[0]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_keys_of_a_page_are_there(page):
    printed = [*shown_commands(prose(page))]
    printed += [c for b in blocks(page) if b.language in SHELL for c in b.commands if c.startswith("ckd ")]
    assert {command: wrong for command in printed if (wrong := wrong_in(command))} == {}
    assert unknown_keys(text_of(page)) == set()


def unknown_keys(text):
    found = {f"{section}.{key}" for section, key in KEY.findall(text) if key not in ENDINGS}
    return found - KEYS - FORMER


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_help_is_a_command_that_is_understood(name, monkeypatch):
    line = COMMANDS[name].line
    assert line.split()[1] == name and wrong_in(line) == [] and unknown_keys(line) == set()
    monkeypatch.chdir(ROOT)
    arguments = _parse(shlex.split(line)[1:])
    _config(COMMANDS[name], arguments)
    if name == "submit":
        assert main([*shlex.split(line)[1:], "--dry-run"]) == 0


def test_commands_and_keys_of_messages_are_there():
    said = messages(ROOT)
    assert {command: wrong for command in shown_commands(said) if (wrong := wrong_in(command))} == {}
    assert unknown_keys(said) == set()


def raised(folder):
    """(text, exit code) of every error of ours that is raised where its text stands."""
    for path in [*folder.glob("ckd/**/*.py"), *folder.glob("jobs/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
            error = getattr(errors, getattr(call.func, "id", ""), None) if call else None
            if error is not None:
                yield "\n".join(literals(call)), error.exit_code


def test_the_errors_page_promises_the_exit_codes_that_the_errors_have():
    code = dict(re.findall(r"^\| `([^`]+)` \|.*\| ([23]) \|$", text_of(ROOT / "docs" / "errors.md"), re.M))
    seen = [(message, code[message], str(own)) for text, own in raised(ROOT) for message in code if message in text]
    assert len(seen) > 50
    assert [message for message, promised, own in seen if promised != own] == []
