"""`ckd serve` under load: many clients at once against a real server process on loopback, each asking for one visit as soon as it has its answer.

    python -m benchmarks.serving.server                    # 200 clients, 60 s, a tiny student; writes benchmarks/results/serve.json
    python -m benchmarks.serving.server --model results/<run>/student

Client and server share the machine, so the server alone would be quicker. Errors must be 0 and memory flat; exit code 1 when they are not. It takes
the given seconds and the server's start, and ends what it starts.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.teacher.speed import ROOT, header
from ckd.store.artifacts import FolderArtifact
from ckd.store.folders import ARTIFACT_FILE
from ckd.student.tiny import StudentSize, make_student
from ckd.visits.labels import DISEASES

SIZE = StudentSize()  # the demo's
WORDS = 40  # of a visit's text: about as many tokens
GROWTH = (
    0.05  # of memory between 10 s and the end that still counts as flat: threads' arenas and the connections' buffers
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", help="a student's folder; without it a tiny untrained one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/serve.json")
    arguments = parser.parse_args(argv)
    report = header("cpu", sys.argv[1:] if argv is None else argv, None, "serving.server")
    texts = make_texts(500)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_student(folder, texts)
        report |= {
            "model": arguments.model or f"untrained, {SIZE}",
            "words_per_visit": WORDS,
            "clients": arguments.clients,
        }
        server = launch(model)
        try:
            port, written = listening(server)
            report |= asyncio.run(load(server.pid, port, texts, arguments.clients, arguments.seconds))
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
    good = code == 0 and not report["errors"] and report["memory"]["flat"]
    report |= {"exit_code": code, "load_average_after": os.getloadavg()[0], "good": good}
    print(
        json.dumps(
            {
                name: report[name]
                for name in (
                    "requests",
                    "errors",
                    "requests_per_s",
                    "p50_ms",
                    "p99_ms",
                    "server_cpu_ms_per_request",
                    "memory",
                )
            },
            indent=1,
        )
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.out}; {written.strip()}")
    return int(not good)


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
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.serve", "--model", model, "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def listening(server: subprocess.Popen[str]) -> tuple[int, str]:
    """Its port, once it listens, and the line that names it."""
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r":(\d+)/predict", line):
            return int(found[1]), line
    raise RuntimeError("the server did not start; its own line above says why")


@dataclass
class Seen:
    """What the clients saw."""

    ends: float
    seconds: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def wrong(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1


async def load(pid: int, port: int, texts: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Run the clients for `seconds`; figures of their requests and of the server's memory."""
    before = (await metrics(port))["process_cpu_seconds_total"]
    memory, began = [resident(pid)], time.monotonic()
    seen = Seen(began + seconds)
    tasks = [asyncio.create_task(client(port, texts, number, seen)) for number in range(clients)]
    every = min(10, seconds / 2)
    for _ in range(int(seconds / every)):
        await asyncio.sleep(every)
        memory.append(resident(pid))
    await asyncio.gather(*tasks)
    wall = time.monotonic() - began
    memory.append(resident(pid))
    growth = memory[-1] / memory[1] - 1
    server = await metrics(port)
    cpu = server["process_cpu_seconds_total"] - before
    return {
        "wall_s": wall,
        "requests": len(seen.seconds),
        "errors": seen.errors,
        "requests_per_s": len(seen.seconds) / wall,
        "p50_ms": float(np.percentile(seen.seconds, 50)) * 1000,
        "p99_ms": float(np.percentile(seen.seconds, 99)) * 1000,
        "max_ms": max(seen.seconds) * 1000,
        "memory": {"mib_every_10_s": memory, "growth_after_10_s": growth, "flat": growth <= GROWTH},
        "server_cpu_ms_per_request": cpu / len(seen.seconds) * 1000,  # what other work on the machine changes least
        "server": server,
    }


async def client(port: int, texts: list[str], number: int, seen: Seen) -> None:
    """One client on one connection, request after request until the time is over; every answer is looked at."""
    rng = random.Random(number)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < seen.ends:
            name = f"{number}-{rng.random()}"
            started = time.monotonic()
            status, body = await ask(
                reader, writer, json.dumps({"visits": [{"visit_id": name, "input": rng.choice(texts)}]}).encode()
            )
            seen.seconds.append(time.monotonic() - started)
            answer = json.loads(body)
            if status != 200:
                seen.wrong(f"status {status}")
            elif answer["visits"][0]["visit_id"] != name or len(answer["visits"][0]["probabilities"]) != len(DISEASES):
                seen.wrong("another's answer")
        writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        seen.wrong(type(error).__name__)


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, path: str = "POST /predict"
) -> tuple[int, bytes]:
    """Status and body of one HTTP/1.1 request on a kept connection."""
    head = (
        f"{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", answer, re.IGNORECASE)
    return int(answer.split()[1]), await reader.readexactly(int(length[1]) if length else 0)


async def metrics(port: int) -> dict[str, float]:
    """The server's own figures."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _, body = await ask(reader, writer, b"", "GET /metrics")
    writer.close()
    wanted = ("ckd_serve_visits_total", "ckd_serve_batch_visits_count", "process_cpu_seconds_total")
    lines = [line.split() for line in body.decode().splitlines() if line.startswith(wanted)]
    found = {line[0]: float(line[1]) for line in lines}
    return {
        **found,
        "visits_per_batch": found["ckd_serve_visits_total"] / max(found["ckd_serve_batch_visits_count"], 1),
    }


def resident(pid: int) -> float:
    """MiB of a process in memory."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    raise SystemExit(main())
