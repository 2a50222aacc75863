"""The student network: any AutoModelForSequenceClassification with the task's labels, as trained and as exported."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.store.pretrained import Loaded, Source, has_weights, load_model, load_settings, outside_base, without_weights

_KEY = "student.base_model"
_AUTO = AutoModelForSequenceClassification
_DROPOUTS = ("dropout", "pdrop", "dropout_prob", "dropout_p")  # how the names of dropout probabilities end


def new_student(config: Config, names: Sequence[str]) -> Loaded:
    """Load the base model in float32 with a fresh head of the labels `names`, whose values depend only on `seed`.

    A head of another number of labels is replaced. Raises ConfigError when student.base_model cannot be loaded, or
    when a weight beside the head would be random.
    """
    source = Source.find(_KEY, config.student.base_model)
    settings = _settings(source, names)
    if config.student.dropout is not None:
        set_dropout(settings, config.student.dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _load(source, settings)


@dataclass(frozen=True)
class Outline:
    """A student's size: all its weights, those outside of the embedding tables, layers, and attention width."""

    parameters: int
    computing: int
    layers: int
    width: int


def outline(source: Source, labels: int) -> Outline:
    """Find the size of student.base_model with a head of so many labels without reading weights.

    Where they are on this machine, what would be missing when they are loaded is refused as well. Raises ConfigError.
    """
    settings = _settings(source, [str(n) for n in range(labels)])
    there = has_weights(source)
    model = _load(source, settings, "meta").model if there else without_weights(source, _AUTO, settings)
    tables = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    weights = list(model.parameters())
    return Outline(
        parameters=sum(p.numel() for p in weights),
        computing=sum(p.numel() for p in weights if id(p) not in tables),
        layers=settings.num_hidden_layers,
        width=settings.hidden_size,
    )


def load_student(folder: str) -> Any:
    """Load a trained student from an exported folder or a checkpoint, in float32. Raises ConfigError."""
    source = Source("", folder, folder)
    return load_model(source, _AUTO, load_settings(source), new=lambda *_: False, dtype=torch.float32).model


def _settings(source: Source, names: Sequence[str]) -> Any:
    return load_settings(
        source,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type="multi_label_classification",
    )


def _load(source: Source, settings: Any, device_map: str | None = None) -> Loaded:
    return load_model(source, _AUTO, settings, new=_head, dtype=torch.float32, device_map=device_map)


def _head(name: str, model: Any) -> bool:
    """Whether a tensor is of the classification head; BERT keeps the head's pooler inside of its base."""
    return outside_base(name, model) or ".pooler." in name


def set_dropout(settings: Any, share: float) -> None:
    """Set every dropout probability that a model's configuration has."""
    for name, value in settings.to_dict().items():
        number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if number and name.endswith(_DROPOUTS):
            setattr(settings, name, share)


def device_of(gpus_per_worker: float) -> torch.device:
    """Choose CUDA where a GPU is asked for, else the CPU. Raises ConfigError where there is none."""
    if gpus_per_worker > 0 and not torch.cuda.is_available():
        raise ConfigError(
            f"student.gpus_per_worker={gpus_per_worker:g}: this worker sees no CUDA device; "
            "set it to 0 or run on a GPU machine"
        )
    return torch.device("cuda" if gpus_per_worker > 0 else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast and exact enough there: CUDA devices that support it."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def rows_per_micro_batch(batch_size: int, world: int, accumulation: int) -> int:
    """The most visits in one micro-batch."""
    return math.ceil(batch_size / (world * accumulation))
