"""The student as ONNX, float32 and with weights in 8 bits, and the proof that the first agrees with torch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ckd.calibration import sigmoid
from ckd.errors import ArtifactError, ConfigError
from ckd.predict.modelfolder import ENGINES

TOLERANCE = 1e-4  # of a float32 probability against torch's
_AXES = {0: "batch", 1: "sequence"}
_BATCHES = (1, 2, 7, 16)


def require_packages() -> None:
    """Raise ConfigError naming what to install when ONNX files cannot be made here."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--onnx needs {', '.join(missing)}; install it with: pip install 'ckd-ehr[onnx]'")


def write_onnx(model: Any, folder: str) -> None:
    """Write both files of a loaded torch student into the local `folder`; the second is quantised dynamically.

    Inputs input_ids and attention_mask int64 [batch, sequence], output logits float32 [batch, labels].
    """
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    plain, small = (str(Path(folder) / ENGINES[engine]) for engine in ("onnx", "onnx-int8"))
    ids = torch.ones((2, 7), dtype=torch.int64)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            Logits().eval(),
            (ids, torch.ones_like(ids)),
            plain,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": _AXES, "attention_mask": _AXES},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8)


def require_parity(folder: str, vocabulary: int, max_length: int) -> float:
    """Find the largest difference of a probability between model.onnx and torch, for texts of up to max_length tokens.

    Raises ArtifactError when it is above TOLERANCE (or NaN).
    """
    from ckd.predict.scorer import load_logits

    rng = np.random.default_rng(0)
    torch_logits, onnx_logits = load_logits(folder, "torch"), load_logits(folder, "onnx")
    worst = 0.0
    for size in _BATCHES:
        lengths = {1, max_length, *rng.integers(1, max_length + 1, size).tolist()}
        sequences = [rng.integers(0, vocabulary, length) for length in [*sorted(lengths)[:size], max_length]]
        gaps = np.abs(sigmoid(torch_logits(sequences)) - sigmoid(onnx_logits(sequences)))
        worst = max(worst, float(gaps.max()))  # NaN stays
        if not worst <= TOLERANCE or not np.isfinite(gaps).all():
            raise ArtifactError(
                f"{ENGINES['onnx']}: differs from torch by {float(gaps.max()):.1e} in a probability, "
                f"{TOLERANCE:.0e} is allowed; nothing was written: export without --onnx, and report this base model"
            )
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes, which a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "root", "")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
