"""Whether two runs of the chaos benchmark made the same, as the docs define equal.

Parts and head are equal byte for byte. The student had the same visits in every global batch and losses within 1e-3
(without dropout, since the number of workers changed on the way).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cluster.ledger import Line, batches, losses
from ckd.visits.columns import flat

STAGES = ("visits", "embeddings", "soft_labels", "tokens")
LOSS = 1e-3


def compare(reference: Path, found: Path, reference_lines: list[Line], lines: list[Line]) -> dict[str, Any]:
    """Every comparison of two run folders (<results>/chaos) and their ledgers; "equal" sums up those that must hold."""
    stages = {stage: parts_equal(reference / "artifacts" / stage, found / "artifacts" / stage) for stage in STAGES}
    head = _bytes(reference / "artifacts/head/head.safetensors") == _bytes(found / "artifacts/head/head.safetensors")
    steps, difference = loss_difference(losses(reference_lines), losses(lines))
    same = same_batches(batches(reference_lines), batches(lines))
    parts = all(stage["equal"] for stage in stages.values())
    predictions = (folder / "artifacts/predictions" for folder in (reference, found))
    return {
        "equal": bool(parts and head and same and steps and difference <= LOSS),
        "parts_byte_equal": stages,
        "head_byte_equal": head,
        "same_visits_in_every_global_batch": same,
        "every_step_done": steps,
        "largest_difference_of_a_loss": difference,
        "largest_difference_of_a_weight": _weights(reference / "student", found / "student"),
        "largest_difference_of_a_prediction": _predictions(*predictions),
    }


def parts_equal(reference: Path, found: Path) -> dict[str, Any]:
    """Whether two folders hold the same part files with the same bytes."""
    one, other = ({p.name: p.read_bytes() for p in folder.glob("part-*.parquet")} for folder in (reference, found))
    different = sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))[:5]
    return {"parts": len(one), "equal": bool(one) and one == other, "different": different}


def loss_difference(reference: dict[int, list[float]], found: dict[int, list[float]]) -> tuple[bool, float]:
    """Whether both did the same steps, and by how much a step's loss differs at most, however often it was done."""
    both = reference.keys() & found.keys()
    gaps = [abs(one - other) for step in both for one in reference[step] for other in found[step]]
    return bool(reference) and reference.keys() == found.keys(), max(gaps, default=0.0)


def same_batches(reference: dict[int, Any], found: dict[int, Any]) -> bool:
    """Whether some group dealt every global batch's visits to its ranks, and no rank ever took another visit."""
    same_numbers = bool(reference) and reference.keys() == found.keys()
    return same_numbers and all(_same(reference[batch], found[batch]) for batch in reference)


def _same(reference: dict[int, dict[int, set[str]]], found: dict[int, dict[int, set[str]]]) -> bool:
    wanted = next(_whole(reference), None)
    taken = [visits for ranks in found.values() for visits in ranks.values()]
    return wanted is not None and wanted in _whole(found) and all(visits <= wanted for visits in taken)


def _whole(attempts: dict[int, dict[int, set[str]]]) -> Iterator[set[str]]:
    """The visits that groups dealt out, of the groups of which every rank is known."""
    for world, ranks in attempts.items():
        if ranks.keys() == set(range(world)):
            union: set[str] = set().union(*ranks.values())
            if len(union) == sum(map(len, ranks.values())):
                yield union


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _weights(reference: Path, found: Path) -> float:
    from safetensors.numpy import load_file

    one, other = (load_file(folder / "model.safetensors") for folder in (reference, found))
    return max(float(abs(one[name] - other[name]).max()) for name in one)


def _predictions(reference: Path, found: Path) -> float:
    import numpy as np
    import pyarrow.parquet as pq

    def read(path: Path) -> np.ndarray:
        return flat(pq.read_table(path)["probabilities"])

    parts = reference.glob("part-*.parquet")
    return max(float(np.abs(read(path) - read(found / path.name)).max()) for path in parts)
