"""Every kind of adapter gives the embeddings of PEFT's own forward pass, merged and not, or is refused by its name."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.teacher.adapter import _REFUSED_KINDS
from ckd.teacher.engine_hf import TransformersEngine
from tests.teacher.adapters import IN_LAYERS, PROMPTS, REFUSED, by_peft, make_adapter, moves

UNMERGEABLE = {
    "lora_bias_without_a_bias": "the base layer has no bias",
    "beft": "Base layer has no bias",
}


@pytest.fixture(scope="module")
def made(teacher_folder, tmp_path_factory):
    """The folder of an adapter of a kind, made once."""
    folder, known = tmp_path_factory.mktemp("kinds"), {}

    def make(kind):
        if kind not in known:
            settings = {**IN_LAYERS, **REFUSED}[kind]
            known[kind] = make_adapter(settings, f"{teacher_folder}/base", folder / kind)
        return known[kind]

    return make


def engine(teacher_folder, adapter, **changed):
    given = {"base_model": f"{teacher_folder}/base", "adapter": str(adapter), "dtype": "float32", "token_budget": 256}
    return TransformersEngine(TeacherConfig(**(given | changed)), 0)


@pytest.mark.parametrize("kind", IN_LAYERS)
def test_an_adapter_of_every_kind_equals_pefts_own_forward(kind, teacher_folder, made):
    base, adapter = f"{teacher_folder}/base", made(kind)
    wanted = by_peft(base, adapter)
    assert np.abs(wanted - by_peft(base, None)).max() > 1e-3, "this adapter is too weak to be missed"
    loaded = engine(teacher_folder, adapter)
    np.testing.assert_allclose(loaded.encode(PROMPTS), wanted, atol=1e-5)
    assert loaded.load.note == ""
    if kind in UNMERGEABLE:
        with pytest.raises(ConfigError, match=rf"cannot merge .*{UNMERGEABLE[kind]}.*set teacher\.merge_adapter=false"):
            engine(teacher_folder, adapter, merge_adapter=True)
    else:
        merged = engine(teacher_folder, adapter, merge_adapter=True)
        np.testing.assert_allclose(merged.encode(PROMPTS), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_would_be_lost_is_refused_by_its_name(kind, teacher_folder, made):
    adapter = made(kind)
    if kind not in {"poly", "multitask"}:  # which want to be told a task
        assert moves(f"{teacher_folder}/base", adapter) > 0.01, "the base model alone would do"
    named = {
        "activated_lora": "sets alora_invocation_tokens",
        "pissa_by_chance": "sets init_lora_weights=pissa_niter_4",
    }
    message = named.get(kind) or "it is " + REFUSED[kind]().peft_type.value
    with pytest.raises(ConfigError, match=rf"^teacher\.adapter={adapter}: .*{message}.*; expected") as error:
        engine(teacher_folder, adapter)
    assert "\n" not in str(error.value)


def test_a_kind_that_nobody_has_listed_is_refused_when_pefts_forward_does_more(teacher_folder, made, monkeypatch):
    monkeypatch.setattr("ckd.teacher.adapter._REFUSED_SETTINGS", {})
    monkeypatch.setattr("ckd.teacher.tuned._probe", lambda adapter, causal: torch.tensor([[5, 6, 7, 8]]))
    with pytest.raises(ConfigError, match="a part of this LORA acts beside the layers"):
        engine(teacher_folder, made("activated_lora"))


def test_every_kind_of_the_installed_peft_is_compared_here_or_refused():
    compared = {settings().peft_type.value for settings in IN_LAYERS.values()}
    assert compared | set(_REFUSED_KINDS) == {kind.value for kind in peft.PeftType}
    assert not compared & set(_REFUSED_KINDS)


def test_settings_and_pickled_weights_of_2023_load(teacher_folder, made, tmp_path):
    keys = "base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights lora_alpha lora_dropout "
    keys += "modules_to_save peft_type r target_modules task_type"
    old = json.loads(open(f"{made('lora')}/adapter_config.json").read())
    settings = {key: old[key] for key in keys.split()} | {"enable_lora": None, "merge_weights": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    torch.save(load_file(f"{made('lora')}/adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    wanted = by_peft(f"{teacher_folder}/base", made("lora"))
    np.testing.assert_allclose(engine(teacher_folder, tmp_path).encode(PROMPTS), wanted, atol=1e-5)
