"""Clients of a running `ckd serve`: each has one connection and one visit at a time, and checks every answer."""

import asyncio
import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ckd.visits.labels import DISEASES

# Of memory between 10 s and the end that still counts as flat: threads' arenas and the connections' buffers.
GROWTH = 0.05


@dataclass
class Seen:
    """What the clients saw until the clock of time.monotonic comes to `ends`."""

    ends: float
    seconds: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def wrong(self, what: str) -> None:
        """Count an error."""
        self.errors[what] = self.errors.get(what, 0) + 1


async def load(pid: int, port: int, texts: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Run the clients for `seconds`; figures of their requests and of the server's memory."""
    before = (await metrics(port))["process_cpu_seconds_total"]
    memory, started = [resident(pid)], time.monotonic()
    seen = Seen(started + seconds)
    tasks = [asyncio.create_task(client(port, texts, number, seen)) for number in range(clients)]
    every = min(10, seconds / 2)
    for _ in range(int(seconds / every)):
        await asyncio.sleep(every)
        memory.append(resident(pid))
    await asyncio.gather(*tasks)
    wall = time.monotonic() - started
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
    """One client on one connection, request after request until the time is over."""
    rng = random.Random(number)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < seen.ends:
            name = f"{number}-{rng.random()}"
            question = {"visits": [{"visit_id": name, "input": rng.choice(texts)}]}
            started = time.monotonic()
            status, body = await ask(reader, writer, json.dumps(question).encode())
            seen.seconds.append(time.monotonic() - started)
            if status != 200:
                seen.wrong(f"status {status}")
                continue
            answer = json.loads(body)["visits"][0]
            if answer["visit_id"] != name or len(answer["probabilities"]) != len(DISEASES):
                seen.wrong("another's answer")
        writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        seen.wrong(type(error).__name__)


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, path: str = "POST /predict"
) -> tuple[int, bytes]:
    """Status and body of one HTTP/1.1 request on a kept connection."""
    lines = [f"{path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
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
    per_batch = found["ckd_serve_visits_total"] / max(found["ckd_serve_batch_visits_count"], 1)
    return {**found, "visits_per_batch": per_batch}


def resident(pid: int) -> float:
    """MiB of a process in memory."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024  # type: ignore[index]
