"""The student network: any AutoModelForSequenceClassification with 25 labels, as trained and as exported."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.store.models import local_folder, revision
from ckd.visits.labels import DISEASES

_DROPOUTS = ("dropout", "pdrop", "dropout_prob", "dropout_p")  # how the names of dropout probabilities end


def new_student(config: Config) -> Any:
    """Load the base model in float32 with a fresh 25-label head, whose values depend on nothing but `seed`.

    Raises ConfigError when student.base_model cannot be loaded.
    """
    _quiet()
    s = config.student
    folder = local_folder("student.base_model", s.base_model)
    commit = revision("student.base_model", folder)
    try:
        settings = AutoConfig.from_pretrained(
            folder,
            revision=commit,
            num_labels=len(DISEASES),
            id2label=dict(enumerate(DISEASES)),
            label2id={name: i for i, name in enumerate(DISEASES)},
            problem_type="multi_label_classification",
        )
        if s.dropout is not None:
            set_dropout(settings, s.dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return AutoModelForSequenceClassification.from_pretrained(
                folder, revision=commit, config=settings, dtype=torch.float32
            )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"student.base_model={s.base_model}: cannot be loaded ({type(error).__name__}); "
            "expected a folder or Hub id that AutoModelForSequenceClassification loads"
        ) from error


@dataclass(frozen=True)
class Outline:
    """A student's size: all its weights, those outside of the embedding tables, layers, and attention width."""

    parameters: int
    computing: int
    layers: int
    width: int


def outline(name: str, folder: str) -> Outline:
    """Find the size of student.base_model from its configuration in `folder`, without weights. Raises ConfigError."""
    _quiet()
    try:
        settings = AutoConfig.from_pretrained(
            folder, revision=revision("student.base_model", folder), num_labels=len(DISEASES)
        )
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(settings)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"student.base_model={name}: no configuration of a model ({type(error).__name__}); "
            "give a folder, a URL or a Hub id of one"
        ) from error
    tables = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    weights = list(model.parameters())
    return Outline(
        parameters=sum(p.numel() for p in weights),
        computing=sum(p.numel() for p in weights if id(p) not in tables),
        layers=settings.num_hidden_layers,
        width=settings.hidden_size,
    )


def load_student(folder: str) -> Any:
    """Load a trained student from an exported folder or a checkpoint, in float32."""
    _quiet()
    # A folder, never a Hub id.
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)  # nosec B615


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


def _quiet() -> None:
    """Keep transformers from showing bars and notes of a fresh head among the run's own lines."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
