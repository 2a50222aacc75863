"""The command blocks of README and docs, as the pages print them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "cluster").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("data", "lora", "results")),
]
SHELL = ("", "bash", "sh", "shell", "console")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block: its language ("" where it is indented, which all shell blocks are)."""

    line: int
    language: str
    text: str

    @property
    def commands(self):
        """Its commands without comments, those of several lines as one."""
        text = re.sub(r"\\\n\s*", "", self.text)
        lines = [re.sub(r"(^|\s+)#( .*)?$", "", line).strip() for line in text.splitlines()]
        parts = [part for line in lines for part in line.split(" && ")]
        return [re.sub(r"\s+", " ", part).removeprefix(".venv/bin/") for part in parts if part]


def blocks(page):
    """All blocks of a page."""
    found, fence, start, held = [], None, 0, []
    for number, line in enumerate([*page.read_text(encoding="utf-8").splitlines(), ""], start=1):
        mark = re.match(r"\s*```(\S*)", line)
        indented = fence is None and not mark and re.match(r" {4}", line)
        if mark and fence is None:
            fence, start, held = mark[1] or "no language", number, []
        elif mark:
            found, fence, held = [*found, Block(start, fence, "\n".join(held))], None, []
        elif fence is not None or indented:
            start, held = start if held or fence else number, [*held, line[4:] if indented else line]
        elif held:
            found, held = [*found, Block(start, "", "\n".join(held))], []
    return found
