"""How many padded tokens a batch may have: found by trying on a GPU and remembered there, a fixed number on a CPU.

Remembered in <user cache>/token_budgets/<key>.json, one file per device, model and what else decides. It is only a
hint: without a readable file of the same facts it is found anew, and the engine halves a batch that still does not fit.
It is always max_length × a power of two, so that equal machines batch equally.
"""

import json
from collections.abc import Callable
from contextlib import suppress

import torch

from ckd.errors import ConfigError
from ckd.store.artifacts import Fields
from ckd.store.files import digest, read_bytes, write_bytes
from ckd.store.folders import cache_folder
from ckd.store.jsonfile import json_bytes

# One or two visits: a layer's activations stay in the cache (benchmarks/teacher/speed.py: a fifth faster than 4096).
CPU_BUDGET = 1024
# A 7B model's layers are compute-bound from a few thousand tokens on; more only waits longer for its first result.
MOST = 1 << 17
SHARE = 0.8  # of the device's memory that the probe may fill: the rest is for fragmentation and for longer prefixes


def automatic_budget(facts: Fields, longest: int, filled_by: Callable[[int], float]) -> int:
    """The remembered token budget for these facts, else a new one by `find_budget`, which is then remembered."""
    path = str(cache_folder() / "token_budgets" / f"{digest(dict(facts))}.json")
    known = _remembered(path, facts)
    if longest <= known <= max(MOST, longest):
        return known
    budget = find_budget(longest, filled_by)
    with suppress(ConfigError, OSError):  # where nothing can be kept, the next start probes again
        write_bytes(path, json_bytes({**facts, "token_budget": budget}, sort_keys=True))
    return budget


def find_budget(longest: int, filled_by: Callable[[int], float]) -> int:
    """Double from one prompt of `longest` tokens until memory is short; the last that was well within SHARE.

    `filled_by(tokens)` runs such a batch and returns the share of memory in use at its peak, or raises
    torch.OutOfMemoryError. Raises ConfigError when a single prompt does not fit.
    """
    fitting, budget = 0, longest
    while budget <= max(MOST, longest):
        try:
            share = filled_by(budget)
        except torch.OutOfMemoryError:
            break
        if share > SHARE and fitting:
            break
        fitting, budget = budget, 2 * budget
        if share > SHARE:
            break
    if not fitting:
        raise one_prompt_too_many(longest)
    return fitting


def one_prompt_too_many(tokens: int) -> ConfigError:
    """The error for a device that cannot hold one prompt."""
    why = f"one prompt of {tokens} tokens does not fit in the GPU's memory"
    return ConfigError(f"teacher.max_length: {why}; lower it or use a larger GPU")


def _remembered(path: str, facts: Fields) -> int:
    try:
        content = json.loads(read_bytes(path))
    except (OSError, ValueError):
        return 0
    budget = content.pop("token_budget", 0) if isinstance(content, dict) else 0
    return budget if type(budget) is int and content == dict(facts) else 0
