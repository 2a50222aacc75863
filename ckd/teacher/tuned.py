"""Puts an adapter into a causal model's layers through PEFT, and proves that all of it is there and active.

PEFT alone warns and goes on: with random values for what is missing, without what does not fit.
"""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors.torch import save_file

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.teacher.adapter import WEIGHTS, Adapter, and_more, read_adapter, refusal, require_values
from ckd.teacher.adapter_fit import (
    another_base,
    another_vocabulary,
    of_a_head,
    one_line,
    peft_errors,
    peft_name,
    peft_settings,
    require_places,
    shapes,
)

Tensors = dict[str, torch.Tensor]

_PROBE = 16  # tokens


def with_adapter(causal: Any, config: TeacherConfig, device: torch.device) -> tuple[Any, list[str]]:
    """The causal model with the adapter inside its layers, and what a user should know. Raises ConfigError.

    Costs three forward passes of a few tokens: PEFT's own forward must equal the bare decoder's, which the engine runs.
    """
    adapter = read_adapter(config.adapter)
    stored = stored_tensors(adapter)
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


def stored_tensors(adapter: Adapter) -> Tensors:
    """The file's tensors under its own names."""
    try:
        tensors = load_peft_weights(adapter.name, device="cpu")
    except Exception as error:  # noqa: BLE001 (a damaged pickle raises anything)
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
        new = peft_name(name, causal)
        if of_a_head(new, causal):
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


def _wrapped(causal: Any, adapter: Adapter, tensors: Tensors, *, same: bool, device: torch.device) -> Any:
    """PEFT's model with what fits. `same`: the file's names are PEFT's own, else PEFT reads a file made with them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.random.fork_rng(devices=[]),
        peft_errors(adapter),
    ):
        torch.manual_seed(0)  # some kinds draw what they do not store, or factorise weights with random numbers
        if not same:
            save_file({name: value.clone().contiguous() for name, value in tensors.items()}, Path(folder) / WEIGHTS)
        return PeftModel.from_pretrained(
            causal,
            adapter.name if same else folder,
            config=peft_settings(adapter),
            torch_device=str(device),
            ignore_mismatched_sizes=True,  # named afterwards, all of them
        ).eval()


def _require_whole(adapter: Adapter, tensors: Tensors, wrapped: Any, vocabulary: int) -> None:
    """Raises ConfigError unless every stored tensor is in its place with its value, and none of PEFT's is missing."""
    with peft_errors(adapter):
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
        if isinstance(group, list)
        for index in group
        if isinstance(index, int) and index >= 0
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


def _merged(wrapped: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lm_head, which is not used
            return wrapped.merge_and_unload()
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError, AttributeError) as error:
        why = f"PEFT cannot merge this adapter ({one_line(error)})"
        raise ConfigError(f"teacher.merge_adapter=True: {why}; set teacher.merge_adapter=false") from error
