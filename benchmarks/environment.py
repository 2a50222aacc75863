"""Other people's packages in an environment of their own: a module that runs there answers one question, in JSON.

So their versions never meet this project's. `make bench-prompts` makes the environments.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT

_MARK = "ANSWER "  # packages write other lines


class MissingError(Exception):
    """What a benchmark needs and does not find, in one line."""


def ask(python: Path, module: str, question: Any) -> Any:
    """What `python -m module`, which calls `answer`, says to the question. Raises MissingError when it says nothing."""
    if not python.exists():
        raise MissingError(f"no {python}: make bench-prompts makes this environment")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [str(python), "-m", module],
        cwd=ROOT,
        env=environment,
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise MissingError(f"{python} -m {module} failed: {last}; make bench-prompts makes this environment")


def question() -> Any:
    """In the other process: what was asked."""
    return json.load(sys.stdin)


def answer(found: Any) -> None:
    """In the other process: the answer."""
    print(_MARK + json.dumps(found), flush=True)
