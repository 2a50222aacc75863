"""Texts -> logits, probabilities, calibrated probabilities, alarms, with a finished student and torch or ONNX Runtime: for predictions,
export and the server. Tokens are those of training; what a folder must hold belongs to modelfolder, shards of visits to the callers."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.batching import token_batches
from ckd.calibration import sigmoid
from ckd.errors import ArtifactError, ConfigError
from ckd.predict.modelfolder import ENGINES, ModelFolder
from ckd.predict.predictions import TOKEN_BUDGET, predict_logits
from ckd.student.batches import pad
from ckd.student.tokens import ragged, tokenize
from ckd.visits.labels import NUM_LABELS

__all__ = ["ENGINES", "ModelFolder", "Scorer", "Scores", "load_logits"]

Logits = Callable[
    [Sequence[NDArray[Any]]], NDArray[np.float32]
]  # token id sequences -> float32 [n, 25], in their order
_PROBE = "The patient-acquired disease is None."


@dataclass(frozen=True)
class Scores:
    """n texts, L=25 labels. Without a calibration `calibrated` and `flags` are None: thresholds are those of calibrated probabilities."""

    logits: NDArray[np.float32]  # [n, L]
    probabilities: NDArray[np.float64]  # [n, L] sigmoid of the logits
    calibrated: NDArray[np.float64] | None  # [n, L]
    flags: NDArray[np.bool_] | None  # [n, L] calibrated >= the label's threshold
    truncated: NDArray[np.bool_]  # [n] part of the text was not read
    tokens: int  # that the model has read


class Scorer:
    """A loaded student. `scorer(texts)` gives the Scores in the order of the texts; neighbours do not change a text's figures. One thread at a time.

    Raises ConfigError when the folder or its weights cannot be used, or the engine's package is not installed; ArtifactError for a damaged folder.
    """

    def __init__(self, model: ModelFolder, gpus: float = 0) -> None:
        self.model = model
        self.tokenizer = load_tokenizer_of(model)
        self._logits = load_logits(model.local, model.engine, gpus)
        try:
            self(["", _PROBE])
        except ArtifactError as error:
            raise ConfigError(str(error)) from None  # every shard would fail in the same way

    @classmethod
    def load(cls, folder: str, engine: str = "torch", gpus: float = 0) -> "Scorer":
        """Open a model folder (path or URL) and load it."""
        return cls(ModelFolder.open(folder, engine), gpus)

    def __call__(self, texts: Sequence[str]) -> Scores:
        """Score some texts: as many as may be in memory at once. Raises ArtifactError where a logit is not finite."""
        tokens = self._tokens(texts)
        ids, offsets = ragged(tokens["input_ids"])
        logits = self._logits([ids[a:b].astype(np.int64) for a, b in pairwise(offsets)])
        wrong = int((~np.isfinite(logits)).any(axis=1).sum())
        if wrong:
            raise ArtifactError(
                f"{self.model.folder}: the model's figures for {wrong:,} of {len(texts):,} texts are not finite (NaN or infinite): "
                "its weights are no good; train or export it again"
            )
        calibration = self.model.calibration
        calibrated = None if calibration is None else calibration.probabilities(logits)
        flags = None if calibration is None or calibrated is None else calibration.flags(calibrated)
        truncated = tokens["truncated"].to_numpy()
        return Scores(logits, sigmoid(logits), calibrated, flags, truncated, len(ids))

    def _tokens(self, texts: Sequence[str]) -> Any:
        import pyarrow as pa

        column = pa.array(texts, pa.string())
        return tokenize(self.tokenizer, pa.table({"visit_id": column, "input": column}), self.model.max_length)


def load_logits(local: str, engine: str, gpus: float = 0) -> Logits:
    """The forward pass of the model in a local folder. Raises ConfigError when it cannot be loaded, or without the engine's package."""
    return _torch(local, gpus) if engine == "torch" else _onnx(local, engine)


def load_tokenizer_of(model: ModelFolder) -> Any:
    """The tokenizer in a model folder. Raises ConfigError when it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model.local)  # a folder, never a Hub id  # nosec B615
    except Exception as error:  # noqa: BLE001  the tokenizers library raises Exception itself
        raise ConfigError(
            f"{model.folder}: its tokenizer cannot be loaded ({type(error).__name__}); copy the folder again, or make it again"
        ) from None


def _torch(local: str, gpus: float) -> Logits:
    from safetensors import SafetensorError

    from ckd.student.model import device_of, load_student

    device = device_of(gpus)
    try:
        model = load_student(local).to(device).eval()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise _unloadable(local, error) from None
    pad_id = model.config.pad_token_id or 0
    return lambda sequences: predict_logits(model, device, sequences, pad_id)


def _onnx(local: str, engine: str) -> Logits:
    """One text at a time with int8: the scales of its activations are taken over a whole batch, and a text's neighbours must not matter."""
    import json

    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)  # as torch; 0: all cores
    path = Path(local) / ENGINES[engine]
    # They share no base class but Exception.
    broken = (ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.InvalidProtobuf, ort.NoModel, ort.RuntimeException)
    unloadable = (*broken, ort.NoSuchFile, ort.NotImplemented, RuntimeError)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except unloadable as error:
        raise _unloadable(str(path), error) from None
    pad_id = json.loads((Path(local) / "config.json").read_bytes()).get("pad_token_id") or 0
    budget = 1 if engine == "onnx-int8" else TOKEN_BUDGET

    def logits(sequences: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        found = np.empty((len(sequences), NUM_LABELS), np.float32)
        for chosen in token_batches([len(s) for s in sequences], budget):
            ids, mask = pad([sequences[i] for i in chosen], pad_id)
            found[chosen] = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        return found

    return logits


def _unloadable(where: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{where}: the model cannot be loaded ({type(error).__name__}); copy the folder again, or make it again"
    )
