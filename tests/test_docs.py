"""docs/configuration.md is what the configuration says of itself. UPDATE_DOCS=1 writes it anew."""

import ast
import os
import re
from functools import cache
from pathlib import Path

from ckd.config import Config
from ckd.ehr.pairs import REASONS
from ckd.section import Section, Workers

DOC = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"


def rendered():
    lines = [
        "# Configuration",
        "One YAML file, `--config jobs/default.yaml`, and dotted overrides on every command: "
        "`ckd run --config … teacher.workers=0..8`.",
        "Unknown keys are refused. `ckd run --dry-run …` prints the resolved configuration and the plan. "
        "This page is made from `ckd/config.py`.",
        "A run leaves the resolved one as `results/<run>/config.yaml`; `ckd report`, `evaluate`, `status`, `verify` "
        "and `export model` take it where no `--config` is given.",
        "A text is what you type, without quotes too: `run.name=007`, `1.10`, `12:30:45`. "
        "`~` is your home folder in every path.",
    ]
    for name, field in Config.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, Section)):
            lines += ["", f"`{name}` = `{field.default}`: {field.description}"]
            continue
        lines += ["", f"## {name}", f"{section.__doc__}", "", "| key | default | meaning |", "|---|---|---|"]
        for key, entry in section.model_fields.items():
            default = str(entry.default) if isinstance(entry.default, Workers) else repr(entry.default)
            lines.append(f"| `{name}.{key}` | `{default}` | {entry.description} |")
    return "\n".join(lines) + "\n"


def test_the_configuration_page_is_up_to_date():
    if os.environ.get("UPDATE_DOCS"):
        DOC.write_text(rendered())
    assert DOC.read_text() == rendered(), "run: UPDATE_DOCS=1 .venv/bin/python -m pytest tests/test_docs.py"


def test_every_key_has_a_meaning():
    assert "| None |" not in rendered()


def test_the_readme_ends_in_a_tree_that_names_every_module_of_ckd():
    root = DOC.parents[1]
    tree = (root / "README.md").read_text().rpartition("## The tree")[2]
    for path in (root / "ckd").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        assert name.startswith("__") or name in tree, name


def test_the_ingest_page_lists_every_reason_for_which_an_admission_is_left_out():
    page = DOC.with_name("ingest.md")
    table = "\n".join(
        ["| excluded | because |", "|---|---|", *(f"| {reason} | {sentence} |" for reason, sentence in REASONS.items())]
    )
    if os.environ.get("UPDATE_DOCS"):
        before, _, rest = page.read_text().partition("| excluded | because |")
        page.write_text(before + table + rest[rest.index("\n\n") :])
    assert table in page.read_text(), "run: UPDATE_DOCS=1 .venv/bin/python -m pytest tests/test_docs.py"


def literals(tree: ast.AST) -> list[str]:
    """Every text in a piece of code, … for what is filled in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
    return found


@cache
def messages(folder: Path) -> str:
    """Every text of the product's code."""
    paths = [*folder.glob("ckd/**/*.py"), *folder.glob("jobs/*.py"), *folder.glob("cluster/**/*.py")]
    return "\n".join(text for path in paths for text in literals(ast.parse(path.read_text())))


def test_the_errors_page_quotes_messages_that_the_code_has():
    said = messages(DOC.parents[1])
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([23]) \|$", DOC.with_name("errors.md").read_text(), re.M)
    assert len(rows) > 15
    assert [message for message, _ in rows if message not in said] == []
