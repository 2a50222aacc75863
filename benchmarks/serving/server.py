"""`ckd serve` under load: many clients at once on loopback, each with one visit at a time, against a real process.

Client and server share the machine, so the server without them would be quicker. Writes results/serve.json; exit code 1
when there are errors or memory is not flat.

    python -m benchmarks.serving.server [--model results/<run>/student]     # 200 clients, 60 s, a tiny student
"""

import asyncio
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import ROOT, Report, options
from ckd.store.artifacts import FolderArtifact
from ckd.store.folders import ARTIFACT_FILE
from ckd.student.tiny import StudentSize, make_student
from testbed.clients import load

SIZE = StudentSize()  # the demo's
WORDS = 40  # of a visit's text: about as many tokens
SHOWN = ("requests", "errors", "requests_per_s", "p50_ms", "p99_ms", "server_cpu_ms_per_request", "memory")


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__, "serve.json")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", help="a student's folder; without it a tiny untrained one")
    arguments = parser.parse_args(argv)
    report, texts = Report("serving.server", argv, arguments.out), make_texts(500)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_student(folder, texts)
        report |= {"model": arguments.model or f"untrained, {SIZE}", "words_per_visit": WORDS}
        report["clients"] = arguments.clients
        server = launch(model)
        try:
            port, written = listening(server)
            report |= asyncio.run(load(server.pid, port, texts, arguments.clients, arguments.seconds))
        finally:
            server.send_signal(signal.SIGTERM)
            report["exit_code"] = server.wait(60)
    report["good"] = report["exit_code"] == 0 and not report["errors"] and report["memory"]["flat"]
    report.show(*SHOWN)
    print(written.strip())
    return report.finish(report["good"])


def make_texts(count: int) -> list[str]:
    """Visits of made-up words."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(300)]
    return [", ".join(rng.choices(words, k=WORDS)) for _ in range(count)]


def write_student(folder: str, texts: list[str]) -> str:
    """A student of the demo's size with random weights, in a folder as training leaves one."""
    made = make_student(folder, texts, 0, SIZE)
    names = [path.name for path in Path(folder).iterdir() if path.name != ARTIFACT_FILE]
    FolderArtifact(folder, {"student.max_length": SIZE.positions, **made.fields}).commit(sorted(names))
    return folder


def launch(model: str) -> subprocess.Popen[str]:
    """A server's process on a free port."""
    command = [sys.executable, "-m", "jobs", "serve", "--model", model, "--port", "0"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def listening(server: subprocess.Popen[str]) -> tuple[int, str]:
    """Its port, once it listens, and the line that names it."""
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r":(\d+)/predict", line):
            return int(found[1]), line
    raise RuntimeError("the server did not start; its own line above says why")


if __name__ == "__main__":
    raise SystemExit(main())
