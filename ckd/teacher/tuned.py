"""Puts an adapter into a causal model's layers through PEFT, and proves that all of it is there and active.

PEFT alone warns and goes on: with random values for what is missing, without what does not fit.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError  # what torch raises: nothing is unpickled here  # nosec B403
from typing import Any

import peft
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.store.pretrained import Source, load_settings, without_weights
from ckd.teacher.adapter import (
    HEADS,
    SETTINGS,
    WEIGHTS,
    Adapter,
    Shapes,
    and_more,
    another_vocabulary,
    read_adapter,
    refusal,
    require_places,
    require_values,
)

Tensors = dict[str, torch.Tensor]

# What trainers, compilers and raw state dicts put into a tensor's name, and PEFT's own files do not.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "default", "modules_to_save"}
_PREFIX = "base_model.model."
_PROBE = 16  # tokens
# PEFT raises what its settings lead to, from a missing key to a wrong attribute.
_FAILURES = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, AssertionError)


def with_adapter(causal: Any, config: TeacherConfig, device: torch.device) -> tuple[Any, list[str]]:
    """The causal model with the adapter inside its layers, and what a user should know. Raises ConfigError.

    Costs three forward passes of a few tokens: PEFT's own forward must equal the bare decoder's, which the engine runs.
    """
    adapter = read_adapter(config.adapter)
    stored = _stored(adapter)
    tensors, notes = _named_as_peft(adapter, stored, causal)
    probe = _probe(adapter, causal)
    bare, vocabulary = _states(causal, probe), len(causal.get_input_embeddings().weight)
    wrapped = _wrapped(causal, adapter, tensors, same=list(tensors) == list(stored), device=device)
    _require_whole(adapter, tensors, wrapped, vocabulary)
    tuned = _states(wrapped, probe)
    decoder = wrapped.get_base_model().base_model
    with torch.inference_mode():
        kept = decoder(input_ids=probe, use_cache=False).last_hidden_state
    if _apart(kept, tuned) > 1e-3:
        raise refusal(adapter.name, f"a part of this {adapter.kind} acts beside the layers", "one inside them: LoRA")
    notes += another_base(adapter, config)
    if _apart(tuned, bare) < 1e-6:
        notes.append("this adapter changes nothing: embeddings are the base model's")
    return _merged(wrapped) if config.merge_adapter else wrapped.get_base_model(), notes


def require_as_stored(adapter: Adapter, source: Source) -> Shapes:
    """Shapes of a plain LoRA's tensors, for an engine that reads its file by itself. Raises ConfigError.

    What PEFT makes for its settings on the base model, made here without weights, must be what is stored.
    """
    stored = _stored(adapter)
    causal = without_weights(source, AutoModelForCausalLM, load_settings(source))
    tensors, notes = _named_as_peft(adapter, stored, causal)
    if list(tensors) != list(stored):
        raise refusal(adapter.name, notes[0], "names as PEFT stores them; set teacher.engine=transformers")
    settings, vocabulary = _settings(adapter), len(causal.get_input_embeddings().weight)
    settings.init_lora_weights = False
    with warnings.catch_warnings(), _peft(adapter):
        warnings.simplefilter("ignore")
        wrapped = PeftModel(causal, settings)
        own = shapes(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    replaced = [name for name in stored if name not in own and name in wrapped.state_dict()]
    if replaced:
        wrong = f"it brings {replaced[0]}, a weight of the base model's own{and_more(replaced)}"
        raise refusal(adapter.name, wrong, "plain LoRA with one rank; set teacher.engine=transformers")
    require_places(adapter.name, shapes(stored), own, own, vocabulary)
    return shapes(stored)


def another_base(adapter: Adapter, config: TeacherConfig) -> list[str]:
    """A note where the adapter names a base model of another name; none otherwise."""
    base = adapter.settings.get("base_model_name_or_path")
    known = isinstance(base, str) and _last(base) != _last(config.base_model)
    return [f"the adapter names {base} as its base model"] * known


def shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Every tensor's shape."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _stored(adapter: Adapter) -> Tensors:
    """The file's tensors under its own names."""
    try:
        tensors = load_peft_weights(adapter.name, device="cpu")
    except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        expected = "tensors as PEFT saves them, and no other pickled objects"
        raise refusal(adapter.name, f"its weights cannot be read ({type(error).__name__})", expected) from None
    if not isinstance(tensors, Mapping) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise refusal(adapter.name, "its weights file holds other things than tensors", "a file that PEFT saved")
    require_values(adapter.name, shapes(tensors))
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        wrong = f"{broken[0]} holds NaN or infinity{and_more(broken)}: its training went astray"
        raise refusal(adapter.name, wrong, "an earlier checkpoint")
    return dict(tensors)


def _named_as_peft(adapter: Adapter, stored: Tensors, causal: Any) -> tuple[Tensors, list[str]]:
    """The tensors under the names of PEFT's files, without a classifier's head; and notes. Raises ConfigError."""
    tensors: Tensors = {}
    heads = renamed = 0
    for name, value in stored.items():
        new = _peft_name(name, causal)
        if _of_a_head(new, causal):
            heads += 1
        elif new not in tensors:
            tensors[new] = value
            renamed += new not in stored
        elif not torch.equal(tensors[new], value):
            raise refusal(adapter.name, f"two of its tensors are {new}", "a folder with one adapter")
    notes = [f"the adapter's classifier is passed over (tensors: {heads})"] * (heads > 0)
    if renamed:
        notes.append(f"the adapter's tensors are read under PEFT's own names (renamed: {renamed} of {len(tensors)})")
    return tensors, notes


def _peft_name(name: str, causal: Any) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    if parts[0] == "base_model":
        if parts[1] != "model":
            return ".".join(parts)  # shared by all layers: VeRA's projections, …
        parts = parts[2:]
    inner = causal.base_model_prefix
    while parts[:2] == [inner, inner]:
        parts = parts[1:]
    if not hasattr(causal, parts[0]) and hasattr(causal.base_model, parts[0]):  # tuned on AutoModel
        parts = [inner, *parts]
    return _PREFIX + ".".join(parts)


def _of_a_head(name: str, causal: Any) -> bool:
    top = name.removeprefix(_PREFIX).split(".")[0]
    return top in HEADS and not hasattr(causal, top)


def _settings(adapter: Adapter) -> Any:
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
    settings = kind.from_pretrained(adapter.name)
    if settings.task_type != "CAUSAL_LM":
        settings.task_type = None  # other tasks add heads, which nothing asks here
    if getattr(settings, "modules_to_save", None):
        settings.modules_to_save = [name for name in settings.modules_to_save if name not in HEADS] or None
    return settings


def _wrapped(causal: Any, adapter: Adapter, tensors: Tensors, *, same: bool, device: torch.device) -> Any:
    """PEFT's model with what fits. `same`: the file's names are PEFT's own, else PEFT reads a file made with them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        _peft(adapter),
    ):
        warnings.simplefilter("ignore")  # what they say is checked afterwards
        torch.manual_seed(0)  # some kinds draw what they do not store, or factorise weights with random numbers
        if not same:
            save_file({name: value.clone().contiguous() for name, value in tensors.items()}, Path(folder) / WEIGHTS)
        return PeftModel.from_pretrained(
            causal,
            adapter.name if same else folder,
            config=_settings(adapter),
            torch_device=str(device),
            ignore_mismatched_sizes=True,  # named afterwards, all of them
        ).eval()


@contextmanager
def _peft(adapter: Adapter) -> Iterator[None]:
    """Around PEFT's own work: what it raises becomes one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        wrong = f"PEFT cannot load it ({type(error).__name__}: {_line(error)})"
        raise refusal(adapter.name, wrong, "an adapter tuned on teacher.base_model") from error


def _require_whole(adapter: Adapter, tensors: Tensors, wrapped: Any, vocabulary: int) -> None:
    """Raises ConfigError unless every stored tensor is in its place with its value, and none of PEFT's is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    places = wrapped.state_dict() | own
    require_places(adapter.name, shapes(tensors), shapes(own), shapes(places), vocabulary)
    lost = [name for name, value in tensors.items() if not _equal(value, places[name])]
    if lost:
        wrong = f"PEFT did not take {lost[0]} as it is stored{and_more(lost)}"
        raise refusal(adapter.name, wrong, "a file saved by the installed PEFT")


def _equal(stored: torch.Tensor, place: torch.Tensor) -> bool:
    # Not equal(): VB-LoRA keeps the logits of the weights that are stored.
    return torch.allclose(stored.to(place.dtype), place.cpu(), rtol=1e-4, atol=0)


def _probe(adapter: Adapter, causal: Any) -> torch.Tensor:
    """Token ids [1, T]: some at random, and those that the adapter trained by themselves."""
    rows = causal.get_input_embeddings().weight.shape[0]
    found = adapter.settings.get("trainable_token_indices") or adapter.settings.get("token_indices") or []
    chosen = [
        index
        for group in (found.values() if isinstance(found, dict) else [found])
        for index in group
        if isinstance(index, int)
    ]
    ids = torch.randint(rows, (_PROBE,), generator=torch.Generator().manual_seed(0)).tolist()
    if any(index >= rows for index in chosen):
        raise another_vocabulary(adapter.name, "trainable_token_indices", max(chosen) + 1, rows)
    return torch.tensor([[*chosen[:_PROBE], *ids]], device=causal.base_model.device)


@torch.inference_mode()
def _states(model: Any, probe: torch.Tensor) -> torch.Tensor:
    """[1, T, H]: the last hidden state by the model's own forward."""
    states: torch.Tensor = model(input_ids=probe, output_hidden_states=True, use_cache=False).hidden_states[-1]
    return states


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].partition("@")[0].lower()


def _merged(wrapped: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lm_head, which is not used
            return wrapped.merge_and_unload()
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError, AttributeError) as error:
        why = f"PEFT cannot merge this adapter ({_line(error)})"
        raise ConfigError(f"teacher.merge_adapter=True: {why}; set teacher.merge_adapter=false") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
