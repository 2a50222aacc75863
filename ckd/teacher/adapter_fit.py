"""Whether an adapter's tensors are those that PEFT makes for its settings on a base model: names and shapes, no values.

PEFT leaves out what does not fit, starts at random what is missing, and warns. Here one tensor is named, and a remedy.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import peft
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.teacher.adapter import HEADS, SETTINGS, Adapter, Shapes, and_more, refusal

# What trainers, compilers and raw state dicts put into a tensor's name, and PEFT's own files do not.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "default", "modules_to_save"}
_PREFIX = "base_model.model."
# PEFT raises what its settings lead to, from a missing key to a wrong attribute.
_FAILURES = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, AssertionError)


def require_fit(adapter: Adapter, causal: Any) -> None:
    """Raises ConfigError when a LoRA's file shows that it does not fit a model, which may be one without weights.

    The model is changed. Other kinds, and pickled files, are looked at by the worker that loads them.
    """
    if adapter.kind != "LORA" or adapter.tensors is None:
        return
    stored = {peft_name(name, causal): tensor.shape for name, tensor in adapter.tensors.items()}
    stored = {name: shape for name, shape in stored.items() if not of_a_head(name, causal)}
    vocabulary = len(causal.get_input_embeddings().weight)
    own, places = _made_by_peft(adapter, causal)
    require_places(adapter.name, stored, own, places, vocabulary)


def require_plain_fit(adapter: Adapter, stored: Shapes, causal: Any) -> None:
    """As `require_fit`, for an engine that reads the file by itself: PEFT's own names, no weight of the base's."""
    elsewhere = "set teacher.engine=transformers, which reads it"
    renamed = [name for name in stored if peft_name(name, causal) != name]
    if renamed:
        wrong = f"{renamed[0]} has not the name that PEFT gives it{and_more(renamed)}"
        raise refusal(adapter.name, wrong, f"a file that PEFT saved; {elsewhere}")
    vocabulary = len(causal.get_input_embeddings().weight)
    own, places = _made_by_peft(adapter, causal)
    replaced = [name for name in stored if name not in own and name in places]
    if replaced:
        wrong = f"it brings {replaced[0]}, a weight of the base model's own{and_more(replaced)}"
        raise refusal(adapter.name, wrong, f"plain LoRA with one rank; {elsewhere}")
    require_places(adapter.name, stored, own, own, vocabulary)


def _made_by_peft(adapter: Adapter, causal: Any) -> tuple[Shapes, Shapes]:
    with peft_errors(adapter):
        settings = peft_settings(adapter)
        settings.init_lora_weights = False  # how they start needs values
        wrapped = PeftModel(causal, settings)
        own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        return shapes(own), shapes(wrapped.state_dict() | own)


def require_places(name: str, stored: Shapes, own: Shapes, places: Shapes, vocabulary: int) -> None:
    """Raises ConfigError unless every stored tensor has a place of its shape, and every tensor of its own is stored.

    `own` is what PEFT makes for these settings on the base model; `places` is that and the base model's own weights,
    which some adapters replace. PEFT itself leaves out what does not fit, starts at random what is missing, and warns.
    """
    tuned_on = f"the base model that it was tuned on, and the {SETTINGS} of that training"
    wrong = [tensor for tensor, shape in stored.items() if places.get(tensor) != shape]
    if wrong:
        tensor, shape = wrong[0], stored[wrong[0]]
        place = places.get(tensor)
        if place is None:
            raise refusal(name, f"{tensor} has no place in teacher.base_model{and_more(wrong)}", tuned_on)
        differs = [(was, is_) for was, is_ in zip(shape, place, strict=False) if was != is_]
        if len(shape) == len(place) and [is_ for _, is_ in differs] == [vocabulary]:
            raise another_vocabulary(name, tensor, differs[0][0], vocabulary)
        found = f"{tensor} has shape {list(shape)}, its place in teacher.base_model {list(place)}{and_more(wrong)}"
        raise refusal(name, found, tuned_on)
    missing = [tensor for tensor in own if tensor not in stored]
    if missing:
        wrong_file = f"its weights file lacks {missing[0]}{and_more(missing)}"
        raise refusal(name, wrong_file, f"a complete file, and {tuned_on}")


def another_vocabulary(name: str, what: str, tokens: int, vocabulary: int) -> ConfigError:
    """The one line for an adapter that was tuned on a base model with added tokens."""
    resized = f"a base model resized to it (resize_token_embeddings({tokens})), with the adapter's tokenizer"
    return refusal(name, f"{what} is for {tokens} tokens, teacher.base_model has {vocabulary}", resized)


def peft_name(name: str, causal: Any) -> str:
    """The name that PEFT's files give the tensor of this name."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    elif parts[:1] == ["base_model"]:
        return ".".join(parts)  # shared by all layers: VeRA's projections, …
    inner, top = causal.base_model_prefix, "".join(parts[:1])
    while parts[:2] == [inner, inner]:
        parts = parts[1:]
    if not hasattr(causal, top) and hasattr(causal.base_model, top):  # tuned on AutoModel
        parts = [inner, *parts]
    return _PREFIX + ".".join(parts)


def of_a_head(name: str, causal: Any) -> bool:
    """Whether a tensor is a classifier's, which a causal model does not have."""
    top = name.removeprefix(_PREFIX).split(".")[0]
    return top in HEADS and not hasattr(causal, top)


def peft_settings(adapter: Adapter) -> Any:
    """PEFT's own configuration. Raises ConfigError where this PEFT would leave out a part of it."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(adapter.kind)
    here = f"the installed PEFT {peft.__version__}"
    if kind is None:
        raise refusal(adapter.name, f"{here} knows no {adapter.kind}", "a newer PEFT (pip install -U peft)")
    known = {field.name for field in fields(kind)}
    unknown = [key for key, value in adapter.settings.items() if value and key not in known]
    if unknown:
        wrong = f"{here} knows no {', '.join(unknown)}, which {SETTINGS} sets"
        raise refusal(adapter.name, wrong, "a newer PEFT, or a file without what served the training alone")
    given = {key: value for key, value in adapter.settings.items() if key in known - {"runtime_config"}}
    settings = kind(**kind.check_kwargs(**given))
    settings.inference_mode = True
    if settings.task_type != "CAUSAL_LM":
        settings.task_type = None  # other tasks add heads, which nothing asks here
    if getattr(settings, "modules_to_save", None):
        settings.modules_to_save = [name for name in settings.modules_to_save if name not in HEADS] or None
    return settings


def another_base(adapter: Adapter, config: TeacherConfig) -> list[str]:
    """A note where the adapter names a base model of another name; none otherwise."""
    base = adapter.settings.get("base_model_name_or_path")
    known = isinstance(base, str) and _last(base) != _last(config.base_model)
    return [f"the adapter names {base} as its base model"] * known


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].partition("@")[0].lower()


def shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Every tensor's shape."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


@contextmanager
def peft_errors(adapter: Adapter) -> Iterator[None]:
    """Around PEFT's own work: what it raises becomes one line, and what it warns of is checked by us."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        wrong = f"PEFT cannot load it ({type(error).__name__}: {one_line(error)})"
        raise refusal(adapter.name, wrong, "an adapter tuned on teacher.base_model") from error


def one_line(error: Exception) -> str:
    """The start of an error's message."""
    return " ".join(str(error).split())[:200]
