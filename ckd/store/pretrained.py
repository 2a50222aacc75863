"""Loads a named model or tokenizer whole, or refuses it in one line: never random weights, never a folder's own code.

Every call of transformers' `from_pretrained` in this project is here.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckd.errors import ConfigError
from ckd.store.modelfiles import require_plain
from ckd.store.models import local_folder

_KNOWN = {  # words of transformers' error -> what it is, and what to do
    "trust_remote_code": (
        "folder holds code of its own, which is never run",
        "name a model that transformers knows by itself",
    ),
    "no file named": ("folder has no weights", "name the one with model.safetensors or pytorch_model.bin"),
    "does not recognize this architecture": (
        "config.json names a model_type that this transformers does not know",
        "install a newer one, or name another model",
    ),
}
# A numbered layer in a tensor's name: model.layers.24.…, bert.encoder.layer.11.…, transformer.h.3.…
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


@dataclass(frozen=True)
class Source:
    """A model that the configuration names, and the folder where the libraries find it."""

    key: str  # the configuration key; empty for a folder that is not configured
    name: str  # its value
    folder: str  # on this machine

    @classmethod
    def find(cls, key: str, name: str) -> "Source":
        """Find it on this machine; a model elsewhere is copied here first. Raises as `local_folder`."""
        return cls(key, name, local_folder(key, name))

    def error(self, what: str, remedy: str) -> ConfigError:
        """One line about this model."""
        where = f"{self.key}={self.name}" if self.key else self.name
        return ConfigError(f"{where}: {what}; {remedy}")


@dataclass(frozen=True)
class Loaded:
    """A loaded model and what a person should know of the load."""

    model: Any
    new: tuple[str, ...] = ()  # tensors that start at random, in the order of their names
    unused: tuple[str, ...] = ()  # tensors in the files for which the model has no place

    def __str__(self) -> str:
        new = f"{', '.join(self.new)} start at random" if self.new else "every weight is from its files"
        return f"{new}; not used: {', '.join(self.unused)}" if self.unused else new


def load_tokenizer(source: Source) -> Any:
    """Load a tokenizer. Raises ConfigError when it cannot be loaded, or knows nothing but special tokens."""
    from transformers import AutoTokenizer

    tokenizer = _or_refuse(source, "tokenizer", AutoTokenizer.from_pretrained, source.folder)
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - set(tokenizer.added_tokens_encoder)
    if not words:
        files = " or ".join(sorted(set(tokenizer.vocab_files_names.values())))
        raise source.error(
            f"its tokenizer has no vocabulary: every text would be unknown tokens ({files} is missing or empty)",
            "copy the tokenizer's files beside the weights",
        )
    return tokenizer


def load_settings(source: Source, **changed: Any) -> Any:
    """Load the configuration of a model. Raises ConfigError when there is none that transformers knows by itself."""
    from transformers import AutoConfig

    settings = _or_refuse(source, "configuration", AutoConfig.from_pretrained, source.folder, **changed)
    require_plain(source.key, source.name, vars(settings))
    return settings


def load_model(source: Source, auto: Any, settings: Any, *, new: Callable[[str, Any], bool], **options: Any) -> Loaded:
    """Load a model as the class `auto` of transformers makes it, with every weight from the files.

    `new(name, model)` says which tensors may start at random instead, or had another shape in the files. With
    device_map="meta" no weight is read, and the same is refused. Raises ConfigError naming the tensors.
    """
    model, found = _or_refuse(
        source,
        "model",
        auto.from_pretrained,
        source.folder,
        config=settings,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    reshaped = {name: (list(stored), list(wanted)) for name, stored, wanted in sorted(found["mismatched_keys"])}
    missing, unused = sorted(map(str, found["missing_keys"])), sorted(map(str, found["unexpected_keys"]))
    if found["error_msgs"]:
        raise source.error(f"{len(found['error_msgs'])} of its tensors cannot be loaded", "make or copy it again")
    lost = [name for name in missing if not new(name, model)]
    if lost:
        raise source.error(*_missing(lost, unused, len(model.state_dict())))
    changed = [name for name in reshaped if not new(name, model)]
    if changed:
        stored, wanted = reshaped[changed[0]]
        raise source.error(
            f"{len(changed)} of its tensors have another shape than config.json says (first: {changed[0]} "
            f"{stored}, config.json: {wanted})",
            "use the config.json that was saved with these weights",
        )
    _require_all_layers(source, settings, unused)
    return Loaded(model, (*missing, *reshaped), tuple(unused))


def without_weights(source: Source, auto: Any, settings: Any) -> Any:
    """The model that a configuration describes, on the meta device: shapes, no values. Raises ConfigError."""
    import torch

    with torch.device("meta"):
        return _or_refuse(source, "configuration", auto.from_config, settings)


def has_weights(source: Source) -> bool:
    """Whether the weights are on this machine, so that a look at them fetches nothing."""
    return any(file.suffix in {".safetensors", ".bin"} for file in Path(source.folder).iterdir())


def outside_base(name: str, model: Any) -> bool:
    """Whether a tensor is outside of the model's base, in its lm_head or its classification head."""
    prefix = model.base_model_prefix
    return bool(prefix) and not name.startswith(f"{prefix}.")


def require_finite(source: Source, model: Any) -> None:
    """Raise ConfigError naming the first weight that holds NaN or infinity. Reads every weight once."""
    import torch

    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise source.error(f"{name} holds values that are not finite", "its weights are no good; take another copy")


def require_rows(source: Source, tokenizer: Any, model: Any) -> None:
    """Raise ConfigError when the tokenizer has token ids for which the model's embedding table has no row."""
    rows, last = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
    if last >= rows:
        raise source.error(
            f"its tokenizer has token ids up to {last}, its weights only {rows} rows",
            "use the tokenizer that belongs to these weights",
        )


def _missing(lost: list[str], unused: list[str], all_: int) -> tuple[str, str]:
    what = f"{len(lost)} of its {all_} tensors are not in its files (first: {lost[0]})"
    prefix = next((u.removesuffix(name) for u in unused for name in lost if u != name and u.endswith("." + name)), "")
    if prefix:
        return (
            f"{what}, which hold them behind the prefix {prefix!r}",
            "save the plain model with save_pretrained, or rename them",
        )
    return what, "name a folder with all weights; a missing one would be random"


def _require_all_layers(source: Source, settings: Any, unused: Iterable[str]) -> None:
    """Refuse weights of more layers than config.json has: the model would be another, shorter one."""
    layers = getattr(settings.get_text_config(), "num_hidden_layers", None)
    for name in unused:
        found = _LAYER.search(name)
        if found and layers is not None and int(found[1]) >= layers:
            raise source.error(
                f"its files hold {name}, but config.json says num_hidden_layers={layers}",
                "use the config.json that was saved with these weights",
            )


def _or_refuse(source: Source, what: str, load: Callable[..., Any], given: Any, **options: Any) -> Any:
    """What `load(given)` returns. Whatever the libraries raise is one line: another try would only raise it again."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load(given, trust_remote_code=False, **options)
    except Exception as error:  # noqa: BLE001  tokenizers raises Exception itself, the others a dozen kinds
        raise source.error(*_reason(what, error)) from None


def _reason(what: str, error: Exception) -> tuple[str, str]:
    """What went wrong and what to do. The library's own text stays out where it may quote a file's content."""
    kind, text = type(error).__name__, str(error)
    known = next((said for words, said in _KNOWN.items() if words in text), None)
    if known:
        return f"its {known[0]}", known[1]
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return (
            f"its {what} does not fit into this machine's memory",
            "take a larger machine or GPU, a smaller dtype, or share it among GPUs",
        )
    if isinstance(error, ImportError):
        package = re.search(r"`?pip install ([\w.-]+)|No module named '([\w.]+)'|requires the ([\w.-]+)", text)
        name = next(filter(None, package.groups()), "") if package else ""
        return f"its {what} needs the package {name or 'that this error names: ' + kind}", "install it, or name another"
    if kind == "SafetensorError":
        return f"its {what} has a damaged weight file ({kind})", "copy or download it again"
    return (
        f"its {what} cannot be loaded ({kind})",
        "expected a folder as save_pretrained writes it; copy it again, or install the versions that made it",
    )
