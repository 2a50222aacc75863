"""Qwen2.5's tokenizer without its model: vocabulary and byte-pair ranks are in the PyPI package dashscope.

Ranks become the merges of transformers' own Qwen2 tokenizer, which brings normalizer and pre-tokenizer. About 10 s.
"""

import base64
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from benchmarks.environment import MissingError
from testbed.prompt_formats import QWEN

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # their ids follow the last rank


def ranks_file(python: Path) -> Path:
    """The vocabulary in an environment with dashscope. Raises MissingError."""
    found = sorted(python.parent.parent.glob("lib/python*/site-packages/dashscope/resources/qwen.tiktoken"))
    if not found:
        raise MissingError(f"no qwen.tiktoken of dashscope beside {python}: make bench-prompts makes this environment")
    return found[0]


def make_tokenizer(ranks: Path, folder: Path) -> Path:
    """Write the tokenizer, with the model's chat template, as a folder that AutoTokenizer loads; returns the folder."""
    from transformers import AddedToken, Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    found, shown = read_ranks(ranks), bytes_to_unicode()
    vocabulary = {"".join(shown[byte] for byte in token): rank for token, rank in found.items()}
    pieces = [tuple("".join(shown[byte] for byte in piece) for piece in pair) for pair in merges(found)]
    tokenizer = Qwen2Tokenizer(vocabulary, pieces)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.chat_template = QWEN
    tokenizer.save_pretrained(folder)
    return folder


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank, which is also its id."""
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each token of several bytes is merged from, by rank: what its own bytes become without it."""
    pairs = []
    for token, rank in sorted(ranks.items(), key=lambda each: each[1]):
        if len(token) > 1:
            left, right = _merged(token, rank, ranks)
            pairs.append((left, right))
    return pairs


def _merged(token: bytes, below: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Byte-pair encoding with the ranks below one: the lowest first, of equal ones the leftmost."""
    parts = [bytes([byte]) for byte in token]
    while True:
        found = ((ranks.get(left + right, below), place) for place, (left, right) in enumerate(pairwise(parts)))
        rank, place = min(found, default=(below, 0))
        if rank >= below:
            return parts
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
