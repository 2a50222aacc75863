"""The lines of public JSONL, plain or gzip. A line that is too long costs its row, and no memory."""

import gzip
import io
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ckd.store.files import BLOCK, open_file
from ckd.store.jsonfile import JsonError, parse_json
from ckd.visits.rows import MAX_LINE


def lines(path: str) -> Iterator[bytes]:
    """Every line; of one that is too long the first MAX_LINE bytes."""
    with open_file(path) as raw:
        buffered = io.BufferedReader(raw, BLOCK)
        stream: Any = gzip.GzipFile(fileobj=buffered) if path.lower().endswith(".gz") else buffered
        while data := stream.readline(MAX_LINE):
            yield data
            while len(data) == MAX_LINE and not data.endswith(b"\n"):  # the rest of a line that is too long
                data = stream.readline(MAX_LINE)


def drawn_lines(path: str, size: int, rng: random.Random) -> tuple[list[tuple[int, bytes]], int]:
    """Reservoir sampling (Vitter 1985, algorithm R) over the lines that are not blank."""
    drawn: list[tuple[int, bytes]] = []
    rows = 0
    for line, data in enumerate(lines(path), start=1):
        if len(data) < MAX_LINE and not data.strip():
            continue
        rows += 1
        place = len(drawn) if rows <= size else rng.randrange(rows)
        if place < size:
            drawn[place : place + 1] = [(line, data)]
    return drawn, rows


def fields_of(path: str) -> list[str]:
    """The fields of the first line that is a JSON object."""
    for data in lines(path):
        with suppress(JsonError, AttributeError):
            return list(parse_json(data).keys())
    return []
