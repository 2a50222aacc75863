"""Writes the files of the public CKD_EHR code; no other module knows their formats.

They are hands_name_*.json, teacher_classification_head.pt, heads_results* and test_metrics.txt.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckd.store.files import exists, join, read_bytes, write_bytes, write_file
from ckd.visits.task import Task
from ckd.visits.visit import SUBGROUP_FIELDS, Split, Visit

if TYPE_CHECKING:
    import numpy as np
    import torch

HEAD_FILE = "teacher_classification_head.pt"
VISIT_FILES: dict[Split, str] = {"train": "train", "tuning": "val", "held_out": "test"}


def head_file(root: str) -> str:
    """Where the public code looks for the teacher's head."""
    return join(root, "lora", HEAD_FILE)


def write_head(path: str, weight: "np.ndarray", bias: "np.ndarray") -> None:
    """Save a plain `{weight [25, hidden], bias [25]}` that torch.nn.Linear(hidden, 25).load_state_dict takes."""
    import torch

    write_tensors(path, {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})


def write_tensors(path: str, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Save a dict of tensors that torch.load(weights_only=True) takes."""
    import torch

    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def soft_label_file(root: str, split: str) -> str:
    """`data/hands_name_train.json` or `data/hands_name_val.json`."""
    return join(root, "data", f"hands_name_{split}.json")


def clean_file(root: str, split: str) -> str:
    """The JSONL of the kept rows, for runs where the public alignment by position would break (rows quarantined)."""
    return join(root, "data", f"name_{split}_kept.json")


def write_soft_labels(path: str, rows: Iterable[Sequence[float]], task: Task) -> int:
    """Stream each visit's probabilities as the public JSON array of {label: probability}; returns how many visits."""
    lines = (json.dumps(dict(zip(task.names, map(float, row), strict=True)), indent=4) for row in rows)
    return _write_lines(path, lines, "[\n", ",\n", "\n]")


def visit_file(folder: str, split: Split) -> str:
    """`name_train.json`, `name_val.json` or `name_test.json`: the labelled visits of one split."""
    return join(folder, f"name_{VISIT_FILES[split]}.json")


def adapter_file(folder: str) -> str:
    """`name_train_adapter.json`: the train visits on which only the adapter is tuned (not in the public code)."""
    return join(folder, "name_train_adapter.json")


def visit_line(visit: Visit, fields: Sequence[str], task: Task) -> bytes:
    """One labelled visit as a line of public JSONL, which inputs.py reads back.

    `fields` name what it holds beside instruction, input and output; what the visit lacks is null. A line that names
    its split keeps it, whichever file it gets into.
    """
    if visit.labels is None:
        raise ValueError("an unlabelled visit has no output")
    row = _public(visit.instruction, visit.input, visit.labels, task)
    for name in fields:
        own = name in SUBGROUP_FIELDS or not hasattr(visit, name)
        row[name] = visit.subgroups.get(name) if own else getattr(visit, name)
    if (current := row.get("current_labels")) is not None:
        row["current_labels"] = None if None in current else task.named(current)  # a list of names says all or nothing
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def write_rows(path: str, rows: Iterable[Mapping[str, Any]], task: Task) -> int:
    """Stream visits (instruction, input, labels) as the public JSONL; returns the number of rows."""
    public = (_public(row["instruction"], row["input"], row["labels"], task) for row in rows)
    return _write_lines(path, (json.dumps(row, ensure_ascii=False) for row in public), "", "\n", "\n")


def _public(instruction: str, text: str, labels: Sequence[bool | None], task: Task) -> dict[str, Any]:
    row = {"instruction": instruction, "input": text, "output": task.render_output(labels)}
    unknown = task.named(label is None for label in labels)
    return {**row, "unknown_labels": unknown} if unknown else row


def _write_lines(path: str, lines: Iterable[str], start: str, between: str, end: str) -> int:
    count = 0

    def write(stream: Any) -> None:
        nonlocal count
        stream.write(start.encode())
        for line in lines:
            stream.write((between if count else "").encode() + line.encode())
            count += 1
        stream.write(end.encode())

    write_file(path, write, private=True)
    return count


def heads_folder(results: str, hard_weight: float) -> str:
    """Where the public code puts a student and its test results; it calls the weight of the hard loss alpha."""
    return join(results, f"heads_results{hard_weight:g}")


def student_file(results: str, hard_weight: float) -> str:
    """`heads_results<hard_weight>/best_model.pt`: the student's plain state_dict."""
    return join(heads_folder(results, hard_weight), "best_model.pt")


def results_file(results: str, hard_weight: float) -> str:
    """`heads_results<hard_weight>/test_results.pt`."""
    return join(heads_folder(results, hard_weight), "test_results.pt")


def write_test_results(
    results: str, hard_weight: float, predicted: "torch.Tensor", hard: "torch.Tensor", soft: "torch.Tensor"
) -> str:
    """Write `heads_results<hard_weight>/test_results.pt` and return its path.

    It holds all_preds, all_labels_hard and all_labels_soft, each [visits, 25].
    """
    path = results_file(results, hard_weight)
    write_tensors(path, {"all_preds": predicted, "all_labels_hard": hard, "all_labels_soft": soft})
    return path


def public_metrics_file(results: str) -> str:
    """`test_metrics.txt`, to which every run appends a line, as the public code does."""
    return join(results, "test_metrics.txt")


def public_metrics_line(hard_weight: float, metrics: Mapping[str, Any]) -> bytes:
    """The line of a metrics.json: the student's `public_code_metrics`, and a flag where they need a warning."""
    found = {k: float("nan") if v is None else v for k, v in metrics["public_code_metrics"]["student"].items()}
    names = {"Test F1": "f1", "Accuracy": "accuracy", "AUPR": "aupr", "AUC": "auc"}
    figures = ", ".join(f"{name}: {found[key]:.4f}" for name, key in names.items())
    flag = ", teacher_saw_held_out" if metrics["teacher_saw_held_out"] else ""
    return f"alpha：{hard_weight:g}，{figures}{flag}".encode()


def public_metrics_lines(results: str) -> list[bytes]:
    """The lines of all runs. They are bytes: one that is damaged may be no text."""
    path = public_metrics_file(results)
    return read_bytes(path).splitlines() if exists(path) else []


def append_test_metrics(results: str, line: bytes) -> str:
    """Append the line of a run unless it is there; returns the path."""
    path, lines = public_metrics_file(results), public_metrics_lines(results)
    if line not in lines:
        write_bytes(path, b"\n".join([*lines, line]) + b"\n")
    return path
