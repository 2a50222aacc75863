"""Clients of a running `ckd serve`, each with one connection: it asks for one visit, checks the answer and asks again until the time is over."""

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

GROWTH = (
    0.05  # of memory between 10 s and the end that still counts as flat: threads' arenas and the connections' buffers
)


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
