"""The folder that is handed over: a finished student with calibration and card, as transformers and ONNX load it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.calibration import FILE as CALIBRATION_FILE
from ckd.errors import ConfigError
from ckd.predict.modelfolder import ENGINES, EXPORTED, ModelFolder
from ckd.predict.onnxfile import require_parity, write_onnx
from ckd.predict.scored import score_all
from ckd.predict.scorer import Scorer, load_tokenizer_of
from ckd.store.artifacts import Fields, FolderArtifact
from ckd.store.files import digest, join, read_bytes
from ckd.store.handover import FORMAT, publish, standing

KIND = "export of a student"
CARD_FILE = "README.md"
_TRAINING = "student."  # fields of the student's own artifact.json that go with it: how its texts become tokens


def bundle_fields(model: ModelFolder, *, onnx: bool, card: Mapping[str, Any]) -> Fields:
    """The fingerprint of an exported folder: student, calibration, whether with ONNX files, and the card's figures."""
    own = FolderArtifact(model.folder, {}).load() or {}
    kept = {name: value for name, value in own["fields"].items() if name.startswith(_TRAINING)}
    of_card = {"calibration": model.calibration_hash, "card": digest(dict(card))}
    return {**kept, FORMAT: KIND, EXPORTED: model.student, "onnx": onnx, **of_card}


def is_done(folder: str, fields: Fields) -> bool:
    """Whether this very export stands there. Raises ConfigError when the folder holds something else."""
    there = standing(folder, KIND)
    if there is None:
        return False
    if there["fields"].get(EXPORTED) != fields[EXPORTED]:
        raise ConfigError(f"{folder}: holds the export of another student; give another --out, or delete it")
    if dict(there["fields"]) != dict(fields):
        return False
    FolderArtifact(folder, {}).verify()
    return True


def build(model: ModelFolder, folder: str, *, onnx: bool) -> float | None:
    """Write weights, configuration, tokenizer and calibration, with `onnx` both ONNX files, into the local `folder`.

    The tokenizer cuts at the student's length by itself. Returns the largest gap between model.onnx and torch. Raises
    ArtifactError when they do not agree.
    """
    from ckd.student.model import load_student

    student = load_student(model.local).eval()
    student.save_pretrained(folder)
    tokenizer = load_tokenizer_of(model)
    tokenizer.model_max_length = model.max_length
    tokenizer.save_pretrained(folder)
    _cut_at(Path(folder) / "tokenizer.json", model.max_length)
    if model.calibration is not None:
        (Path(folder) / CALIBRATION_FILE).write_bytes(read_bytes(join(model.folder, CALIBRATION_FILE)))
    if not onnx:
        return None
    write_onnx(student, folder)
    return require_parity(folder, student.config.vocab_size, model.max_length)


def compare_engines(model: ModelFolder, folder: str, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Probabilities [n, L] of some texts by torch and by both ONNX files in the local `folder`."""
    engines = ENGINES if texts else ()
    return {engine: score_all(_scorer(model, folder, engine), texts).probabilities for engine in engines}


def deliver(local: str, folder: str, fields: Fields, card: str, extra: Mapping[str, Any]) -> None:
    """Put the card beside the files that `build` wrote and publish them all."""
    (Path(local) / CARD_FILE).write_text(card, encoding="utf-8")
    publish(local, folder, fields, extra)


def _scorer(model: ModelFolder, folder: str, engine: str) -> Scorer:
    return Scorer(replace(model, folder=folder, local=folder, engine=engine))


def _cut_at(path: Path, max_length: int) -> None:
    """Make tokenizer.json cut long texts for programs without transformers."""
    if not path.exists():  # a tokenizer without a Rust twin
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = None
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
