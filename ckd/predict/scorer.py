"""Texts -> logits, probabilities, calibrated probabilities and alarms, with a finished student.

Predictions, export and the server all use it, so that a text has the same figures everywhere.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.batching import pad, token_batches
from ckd.calibration import sigmoid
from ckd.errors import ArtifactError, ConfigError
from ckd.predict.modelfolder import ENGINES, ModelFolder
from ckd.student.tokens import token_rows, tokenize

Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], Any]  # token ids and attention mask [n, T] -> logits [n, L]
Logits = Callable[[Sequence[NDArray[Any]]], NDArray[np.float32]]  # token ids of n texts -> [n, L], in their order
TOKEN_BUDGET = 16384  # padded tokens per forward pass
_PROBE = "The patient-acquired disease is None."


@dataclass(frozen=True)
class Scores:
    """The figures of n texts, L labels. Without a calibration `calibrated` and `flags` are None."""

    logits: NDArray[np.float32]  # [n, L]
    probabilities: NDArray[np.float64]  # [n, L] sigmoid of the logits
    calibrated: NDArray[np.float64] | None  # [n, L]
    flags: NDArray[np.bool_] | None  # [n, L] calibrated >= the label's threshold
    truncated: NDArray[np.bool_]  # [n] part of the text was not read
    tokens: int  # that the model has read


class Scorer:
    """A loaded student: `scorer(texts)` gives the Scores in the order of the texts. One thread at a time.

    A text's figures do not depend on its neighbours. Raises ConfigError when the folder or its weights cannot be used,
    or the engine's package is not installed; ArtifactError for a damaged folder.
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
        rows = token_rows(tokens["input_ids"])
        logits = self._logits(rows)
        wrong = int((~np.isfinite(logits)).any(axis=1).sum())
        if wrong:
            raise ArtifactError(
                f"{self.model.folder}: the model's figures for {wrong:,} of {len(texts):,} texts are not finite "
                "(NaN or infinite): its weights are no good; train or export it again"
            )
        calibration = self.model.calibration
        calibrated = None if calibration is None else calibration.probabilities(logits)
        flags = None if calibration is None or calibrated is None else calibration.flags(calibrated)
        truncated = tokens["truncated"].to_numpy()
        return Scores(logits, sigmoid(logits), calibrated, flags, truncated, sum(map(len, rows)))

    def _tokens(self, texts: Sequence[str]) -> Any:
        import pyarrow as pa

        column = pa.array(texts, pa.string())
        return tokenize(self.tokenizer, pa.table({"visit_id": column, "input": column}), self.model.max_length)


def load_logits(local: str, engine: str, gpus: float = 0) -> Logits:
    """Load the model in a local folder. Raises ConfigError when it cannot be loaded, or without the engine's package.

    int8 computes one text at a time, since the scales of its activations are taken over a whole batch.
    """
    forward, pad_id = _torch(local, gpus) if engine == "torch" else _onnx(local, engine)
    return in_batches(forward, pad_id, 1 if engine == "onnx-int8" else TOKEN_BUDGET)


def in_batches(forward: Forward, pad_id: int, budget: int = TOKEN_BUDGET) -> Logits:
    """Batches of texts of similar length, under `budget` padded tokens each."""

    def logits(texts: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        found: NDArray[np.float32] | None = None
        for chosen in token_batches([len(ids) for ids in texts], budget):
            rows = forward(*pad([texts[i] for i in chosen], pad_id))
            found = np.empty((len(texts), rows.shape[1]), np.float32) if found is None else found
            found[chosen] = rows
        return found if found is not None else np.empty((0, 0), np.float32)

    return logits


def torch_forward(model: Any, device: Any) -> Forward:
    """The forward pass of a torch model on its device."""
    import torch

    @torch.inference_mode()
    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Any:
        inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
        return model(**inputs).logits.float().cpu().numpy()

    return forward


def load_tokenizer_of(model: ModelFolder) -> Any:
    """Load the tokenizer in a model folder. Raises ConfigError when it cannot be loaded."""
    from ckd.store.pretrained import Source, load_tokenizer

    return load_tokenizer(Source("", model.folder, model.local))


def _torch(local: str, gpus: float) -> tuple[Forward, int]:
    """The forward pass and the padding's token id."""
    from ckd.student.model import device_of, load_student

    device = device_of(gpus)
    model = load_student(local).to(device).eval()
    return torch_forward(model, device), model.config.pad_token_id or 0


def _onnx(local: str, engine: str) -> tuple[Forward, int]:
    """The forward pass and the padding's token id."""
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

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Any:
        return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]

    return forward, json.loads((Path(local) / "config.json").read_bytes()).get("pad_token_id") or 0


def _unloadable(where: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{where}: the model cannot be loaded ({type(error).__name__}); copy the folder again, or make it again"
    )
