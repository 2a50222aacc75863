"""The table of adapters on the vLLM engine: each equals PEFT's own forward pass or is refused, never the base model.

What is refused is so before vLLM is imported; the values are compared where it is installed (`make test-vllm`).
"""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.teacher.adapters import IN_LAYERS, PLAIN_LORA, PROMPTS, REFUSED, by_peft, make_adapter
from tests.teacher.plain_teacher import contract_teacher
from tests.teacher.test_engine_vllm import config, edited, loaded, needs_vllm, refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return contract_teacher(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """A folder like the contract's with an adapter of one kind, made once."""
    known = {}

    def make(kind):
        if kind not in known:
            known[kind] = tmp_path_factory.mktemp("kinds") / kind
            (known[kind]).mkdir()
            (known[kind] / "base").symlink_to(f"{folder}/base")
            make_adapter({**IN_LAYERS, **REFUSED}[kind], f"{folder}/base", known[kind] / "adapter")
        return known[kind]

    return make


@pytest.mark.parametrize("kind", sorted(set(IN_LAYERS) - set(PLAIN_LORA)))
def test_an_adapter_of_another_kind_than_plain_lora_is_refused(kind, made):
    refused("; expected plain LoRA with one rank; set teacher.engine=transformers", config(made(kind)))


@pytest.mark.parametrize("kind", REFUSED)
def test_an_adapter_that_would_be_lost_is_refused_as_by_the_other_engine(kind, made):
    refused(r"^teacher\.adapter=\S+: (it is \w+, which|adapter_config\.json sets) .*; expected", config(made(kind)))


@needs_vllm
@pytest.mark.parametrize("kind", PLAIN_LORA)
def test_plain_lora_of_every_kind_equals_pefts_own_forward(kind, folder, made):
    wanted = by_peft(f"{folder}/base", made(kind) / "adapter")
    assert np.abs(wanted - by_peft(f"{folder}/base", None)).max() > 1e-2, "too weak to be missed"
    np.testing.assert_allclose(loaded(config(made(kind))).encode(PROMPTS), wanted, atol=1e-4)


@needs_vllm
def test_pickled_weights_equal_pefts_own_forward(folder, made, tmp_path):
    other = edited(made("lora"), tmp_path / "t")
    path = tmp_path / "t" / "adapter" / "adapter_model.safetensors"
    torch.save({name: torch.from_numpy(value) for name, value in load_file(path).items()}, path.with_suffix(".bin"))
    path.unlink()
    wanted = by_peft(f"{folder}/base", made("lora") / "adapter")
    np.testing.assert_allclose(loaded(config(other)).encode(PROMPTS), wanted, atol=1e-4)


def test_a_file_that_lacks_a_layer_is_refused(folder, tmp_path):
    short = edited(folder, tmp_path / "t", tensors=lambda name, value: value if "layers.1." not in name else None)
    refused(r"its weights file lacks \S+layers\.1\.\S+, and 13 more like it; expected a complete file", config(short))


def test_names_that_vllm_would_not_find_are_refused_with_the_engine_that_reads_them(folder, tmp_path):
    edited(folder, tmp_path / "t")
    path = tmp_path / "t" / "adapter" / "adapter_model.safetensors"
    raw = {name.replace("lora_A.", "lora_A.default."): value for name, value in load_file(path).items()}
    save_file(raw, path, {"format": "pt"})
    refused(
        r"lora_A\.default\.weight has not the name that PEFT gives it, and 13 more .*set teacher\.engine=transformers",
        config(tmp_path / "t"),
    )


def test_values_that_are_not_finite_are_refused(folder, tmp_path):
    astray = edited(folder, tmp_path / "t", tensors=lambda name, value: value * np.float32("nan"))
    refused("holds NaN or infinity, and 27 more like it", config(astray))
