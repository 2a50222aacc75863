"""What the golden set keeps of a file: hashes of its bytes and of its values, and what names a difference.

Reads formats (Parquet, safetensors, torch, ONNX, JSON, text), never the project's code. Costs a read of every file.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOOTER_KEY = b"ckd"
KEPT = 200_000  # bytes of a JSON or text file whose content is kept, so that a difference can be shown
ALWAYS_KEPT = {"metrics.json"}  # 0.7 MB, but its figures are what a refactor must not move
EVENTS = re.compile(r"(^|/)events\.jsonl$")  # every event has its time and its seconds: its kind and keys are kept
IGNORED = {  # not looked at
    r"^\.home/": "caches of this machine (token budgets, matplotlib, polars)",
}
_TEXTS = {".html", ".md", ".csv", ".txt", ".yaml", ".jinja", ".json", ".jsonl"}
_STAGES = "Teacher reads the visits|Soft labels|Tokens for the student|Student predicts"
_TIMES = [
    (re.compile(r"\d[\d,]*(\.\d+)?(?= (ms|s|visits/s|tokens/s|MiB|TFLOP/s)\b)"), "#"),
    (re.compile(r"[\d.]+%(?= of its measured matrix rate)|(?<=idle )[\d.]+%"), "#%"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?"), "#time"),
]
_ONNX_ENTRY = re.compile(r'("[^"]*\.onnx": \{\s*"sha256": ")[0-9a-f]+(",\s*"size": )\d+')  # in an artifact.json
_ONNX_SIZE = re.compile(r'(?<="megabytes": )[\d.]+')  # the same
_MEASURED = [  # what a report draws and tells of how fast the run was; which steps were told depends on the clock
    (re.compile(r'<svg id="training".*?</svg>', re.DOTALL), ""),
    (re.compile(r'(<th scope="row">Student trains[^<]*</th>)(<td>[^<]*</td>)+'), r"\1"),
    (re.compile(rf'(<th scope="row">(?:{_STAGES})</th><td>[^<]*</td>)(<td>[^<]*</td>)+'), r"\1"),
    (re.compile(r"(measured matrix rate</[^>]*>\s*<[^>]*>)[^<]*"), r"\1"),
]


def record(root: Path) -> dict[str, dict[str, Any]]:
    """Relative path -> what is kept of the file, for every file below `root`."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    names = {str(path.relative_to(root)): path for path in paths}
    return {name: _file(name, path) for name, path in names.items() if not _matches(name, IGNORED)}


def masked(text: str) -> str:
    """`text` without seconds, rates and times."""
    for pattern, mark in _TIMES:
        text = pattern.sub(mark, text)
    return text


def _matches(name: str, patterns: Mapping[str, str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _file(name: str, path: Path) -> dict[str, Any]:
    if EVENTS.search(name):
        return {"kind": "events", "keys": _event_keys(path)}
    found = {"kind": path.suffix.lstrip("."), "sha256": _sha(path.read_bytes())}
    read = _READERS.get(path.suffix) or (_text if path.suffix in _TEXTS else None)
    return {**found, **(read(path) if read else {})}


def _sha(*blocks: bytes) -> str:
    sha = hashlib.sha256()
    for block in blocks:
        sha.update(block)
    return sha.hexdigest()


def _event_keys(path: Path) -> dict[str, list[str]]:
    """Event -> every key that it ever has."""
    keys: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        keys.setdefault(event["event"], set()).update(event)
    return {kind: sorted(names) for kind, names in sorted(keys.items())}


def _parquet(path: Path) -> dict[str, Any]:
    """Hash of the values as one Arrow IPC stream without metadata, and the project's footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    footer = json.loads((table.schema.metadata or {}).get(FOOTER_KEY, b"null"))
    plain = pa.table(
        [column.combine_chunks() for column in table.columns],
        schema=pa.schema([pa.field(field.name, field.type, field.nullable) for field in table.schema]),
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    columns = [f"{field.name}: {field.type}" for field in plain.schema]
    return {
        "data": _sha(sink.getvalue().to_pybytes()),
        "rows": table.num_rows,
        "columns": columns,
        "footer": footer,
        **(_without_weights(footer["fields"]) if footer else {}),
    }


def _without_weights(fields: dict[str, Any]) -> dict[str, Any]:
    """Predictions by an ONNX file carry its hash, which moves with the code's folder: drop it, and the part's own."""
    if not str(fields.get("engine")).startswith("onnx"):
        return {}
    fields["weights"] = "#"
    return {"sha256": None}


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return {"data": _tensors_sha(tensors), "metadata": file.metadata()}


def _torch(path: Path) -> dict[str, Any]:
    """Hash of all that the file holds; null when torch.load(weights_only=True) refuses it."""
    import pickle

    import torch

    try:
        return {"data": _tensors_sha(torch.load(path, map_location="cpu", weights_only=True))}
    except pickle.UnpicklingError:
        return {"data": None}


def _tensors_sha(value: Any) -> str:
    sha = hashlib.sha256()
    _feed(value, sha.update)
    return sha.hexdigest()


def _feed(value: Any, update: Callable[[bytes], None]) -> None:
    """Type, shape and bytes of every tensor, everything else as its repr, in the order of sorted keys."""
    import torch

    if isinstance(value, torch.Tensor):
        update(f"{value.dtype}{tuple(value.shape)}".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            update(f"{key}=".encode())
            _feed(value[key], update)
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(item, update)
    else:
        update(repr(value).encode())


def _onnx(path: Path) -> dict[str, Any]:
    """Hash of graph and weights without metadata: the exporter writes file names and lines of the code into it."""
    import onnx

    model = onnx.load(path)
    parts = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    for part in [*parts, *model.graph.value_info, *model.graph.initializer, *model.functions]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    return {"data": _sha(model.SerializeToString(deterministic=True)), "sha256": None}


def _gzip(path: Path) -> dict[str, Any]:
    return {"data": _sha(gzip.decompress(path.read_bytes()))}


def _text(path: Path) -> dict[str, Any]:
    """Hash of the text without times; the text, or for JSON its value, when it is small."""
    written = path.read_text(encoding="utf-8")
    text = _ONNX_SIZE.sub("0", _ONNX_ENTRY.sub(r"\g<1>#\g<2>0", masked(written)))
    for pattern, instead in _MEASURED if path.suffix == ".html" else []:
        text = pattern.sub(instead, text)
    found: dict[str, Any] = {"data": _sha(text.encode()), **({} if text == written else {"sha256": None})}
    if len(text) > KEPT and path.name not in ALWAYS_KEPT:
        return found
    try:
        return {**found, "value": json.loads(text)} if path.suffix == ".json" else {**found, "text": text}
    except ValueError:
        return {**found, "text": text}


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".parquet": _parquet,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
    ".onnx": _onnx,
    ".gz": _gzip,
}
