"""Looks at the models that a configuration names as a load will, but reads no weights: a missing one costs no GPU hour.

Of a model at a URL or on the Hub only configuration and tokenizer are fetched; its weights are checked where it loads.
"""

from pathlib import Path

from ckd.config import Config
from ckd.store.models import without_weights
from ckd.store.pretrained import Source, has_weights, load_tokenizer


def require_teacher(config: Config) -> int:
    """Raise ConfigError when teacher.base_model would not load whole, or its prompts cannot be made as configured.

    Returns how many weights its layers have. Imports torch and transformers.
    """
    from ckd.teacher.chat_template import load_prompter
    from ckd.teacher.decoder import outline

    name = config.teacher.base_model
    with without_weights("teacher.base_model", name) as folder:
        source = Source("teacher.base_model", name, folder)
        _require_weights(source)
        tokenizer, shape, _ = outline(config.teacher, source)
    load_prompter(config.teacher, tokenizer)
    return shape.parameters


def require_student(config: Config) -> None:
    """Raise ConfigError when student.base_model would not load whole. Imports torch and transformers."""
    from ckd.student.model import outline

    name = config.student.base_model
    with without_weights("student.base_model", name) as folder:
        source = Source("student.base_model", name, folder)
        _require_weights(source)
        load_tokenizer(source)
        outline(source, 1)  # whether it loads does not depend on the labels


def _require_weights(source: Source) -> None:
    """Raise ConfigError when a folder on this machine has none; of a model elsewhere they are not fetched here."""
    if Path(source.name).is_dir() and not has_weights(source):
        raise source.error("folder has no weights", "name the one with model.safetensors or pytorch_model.bin")
