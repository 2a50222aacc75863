"""Adapter files as people have them: what PEFT means by them gives PEFT's values, the rest one line with a remedy."""

import json
import os
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.run import Run
from ckd.store.pretrained import Source
from ckd.teacher.accounting import Account, figures, lines
from ckd.teacher.adapter_fit import peft_name
from ckd.teacher.decoder import outline
from ckd.teacher.embed import EmbedWorker, teacher_fields
from tests.teacher.adapters import IN_LAYERS, PROMPTS, base_model, by_peft, make_adapter, moves
from tests.teacher.embedded import embedded, visits
from tests.teacher.test_adapter_kinds import engine

FILE = "adapter_model.safetensors"


@pytest.fixture
def base(teacher_folder):
    return f"{teacher_folder}/base"


@pytest.fixture
def adapter(base, tmp_path):
    """A LoRA folder of its own, whole."""
    return Path(make_adapter(IN_LAYERS["lora"], base, tmp_path / "adapter"))


def rewrite(adapter, change):
    """Replace the file's tensors with what `change` makes of them."""
    save_file({k: v.contiguous() for k, v in change(load_file(adapter / FILE)).items()}, adapter / FILE)


def renamed(pattern, new):
    return lambda tensors: {name.replace(pattern, new): value for name, value in tensors.items()}


def told(adapter, **settings):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def refused(teacher_folder, adapter, message):
    with pytest.raises(ConfigError, match=message) as error:
        engine(teacher_folder, adapter)
    assert str(error.value).startswith(f"teacher.adapter={adapter}: ") and "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("change", [("lora_A.", "lora_A.default."), ("base_model.", "module.base_model."),
    ("model.model.", "model._orig_mod.model."), ("model.model.", "model.model.model."), ("base_model.model.", ""),
    ("base_model.model.model.", "base_model.model.")],
    ids=["raw_state_dict", "deepspeed", "compiled", "twice", "without_prefix", "auto_model"])  # fmt: skip
def test_tensors_under_another_name_are_read_and_it_is_said(change, teacher_folder, base, adapter):
    wanted = by_peft(base, adapter)
    rewrite(adapter, renamed(*change))
    loaded = engine(teacher_folder, adapter)
    np.testing.assert_allclose(loaded.encode(PROMPTS), wanted, atol=1e-5)
    assert "are read under PEFT's own names (renamed: " in loaded.load.note


def test_a_raw_state_dict_of_modules_to_save_is_read(teacher_folder, base, tmp_path):
    adapter = Path(make_adapter(IN_LAYERS["embeddings_saved"], base, tmp_path / "a"))
    wanted = by_peft(base, adapter)
    rewrite(adapter, renamed("embed_tokens.weight", "embed_tokens.modules_to_save.default.weight"))
    np.testing.assert_allclose(engine(teacher_folder, adapter).encode(PROMPTS), wanted, atol=1e-5)


def test_an_adapter_tuned_on_auto_model_equals_its_own_forward(teacher_folder, base, tmp_path):
    def settings():
        return peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="FEATURE_EXTRACTION")

    adapter = make_adapter(settings, base, tmp_path / "a", model=base_model(base, AutoModel))
    tuned = peft.PeftModel.from_pretrained(base_model(base, AutoModel), adapter).eval()
    with torch.no_grad():
        wanted = np.stack([tuned(input_ids=torch.tensor([p])).last_hidden_state[0, -1].numpy() for p in PROMPTS])
    np.testing.assert_allclose(engine(teacher_folder, adapter).encode(PROMPTS), wanted, atol=1e-5)


def test_a_classifiers_adapter_is_run_without_its_head_and_it_is_said(teacher_folder, base, tmp_path):
    def settings():
        return peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="SEQ_CLS")

    model = base_model(base, AutoModelForSequenceClassification)
    adapter = make_adapter(settings, base, tmp_path / "a", model=model)
    assert any("score" in name for name in load_file(f"{adapter}/{FILE}"))
    model = base_model(base, AutoModelForSequenceClassification)
    tuned = peft.PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        states = [tuned(input_ids=torch.tensor([p]), output_hidden_states=True).hidden_states[-1] for p in PROMPTS]
    loaded = engine(teacher_folder, adapter)
    np.testing.assert_allclose(loaded.encode(PROMPTS), np.stack([s[0, -1].numpy() for s in states]), atol=1e-5)
    assert loaded.load.note == "the adapter's classifier is passed over (tensors: 1)"


@pytest.mark.parametrize(
    "kind", ["lora", "dora", "rslora", "loha", "lokr", "vera", "ia3", "oft", "miss", "tokens", "hra"]
)
def test_an_adapter_that_changes_nothing_is_said(kind, teacher_folder, base, tmp_path):
    adapter = make_adapter(IN_LAYERS[kind], base, tmp_path / "a", scale=0)
    assert moves(base, adapter) < 1e-5
    loaded = engine(teacher_folder, adapter)
    np.testing.assert_allclose(loaded.encode(PROMPTS), by_peft(base, None), atol=1e-5)
    assert loaded.load.note == "this adapter changes nothing: embeddings are the base model's"


def test_what_is_said_of_an_adapter_reaches_the_user_with_the_figures(teacher_folder, base, tmp_path):
    adapter = make_adapter(IN_LAYERS["lora"], base, tmp_path / "a", scale=0)
    named = [f"teacher.base_model={base}", f"teacher.adapter={adapter}", "teacher.dtype=float32"]
    config, cohort, _ = embedded(tmp_path / "run", visits(["train"] * 4), overrides=named)
    row = EmbedWorker(Run(config, {"embeddings": teacher_fields(config)}))(cohort.shards[0])
    found = figures([Account.from_row(json.loads(json.dumps(row)))], config.teacher, 1.0)  # as it crosses from an actor
    assert "; this adapter changes nothing: embeddings are the base model's" in "\n".join(lines(found))


def test_another_base_models_name_is_said(teacher_folder, adapter):
    told(adapter, base_model_name_or_path="Qwen/Qwen2.5-7B-Instruct")
    assert engine(teacher_folder, adapter).load.note == "the adapter names Qwen/Qwen2.5-7B-Instruct as its base model"


def test_values_that_are_not_finite_are_refused(teacher_folder, adapter):
    rewrite(
        adapter, lambda tensors: {n: v.log() if "layers.0" in n and "lora_B" in n else v for n, v in tensors.items()}
    )
    refused(
        teacher_folder, adapter, r"base_model\S+layers\.0\S+lora_B\.weight holds NaN or infinity, and 2 more like it"
    )


def test_a_file_that_lacks_a_tensor_or_a_layer_is_refused(teacher_folder, adapter):
    rewrite(
        adapter, lambda tensors: {n: v for n, v in tensors.items() if not ("layers.1" in n and "q_proj.lora_B" in n)}
    )
    refused(teacher_folder, adapter, r"lacks base_model\.model\.model\.layers\.1\.self_attn\.q_proj\.lora_B\.weight;")
    rewrite(adapter, lambda tensors: {n: v for n, v in tensors.items() if "layers.1" not in n})
    refused(
        teacher_folder, adapter, r"lacks base_model\.model\.model\.layers\.1\.\S+, and 5 more like it; expected a comp"
    )


def test_a_file_that_lacks_a_module_to_save_is_refused(teacher_folder, base, tmp_path):
    adapter = Path(make_adapter(IN_LAYERS["norms_saved"], base, tmp_path / "a"))
    rewrite(adapter, lambda tensors: {n: v for n, v in tensors.items() if "model.norm" not in n})
    refused(teacher_folder, adapter, r"base_model\.model\.model\.norm\.weight")


def test_an_adapter_of_a_wider_model_names_a_tensor_and_both_shapes(teacher_folder, adapter):
    rewrite(adapter, lambda tensors: {n: torch.cat([v, v], 1) if "lora_A" in n else v for n, v in tensors.items()})
    message = r"A\.weight has shape \[4, \d+\], its place in teacher\.base_model \[4, \d+\], and 5 more like it; e"
    refused(teacher_folder, adapter, message)


def test_an_adapter_for_layers_that_are_not_there_names_one(teacher_folder, adapter):
    rewrite(adapter, renamed("layers.1.", "layers.7."))
    refused(
        teacher_folder,
        adapter,
        r"layers\.7\.\S+ has no place in teacher\.base_model, and 5 more like it; expected the b",
    )


@pytest.mark.parametrize("kind", [kind for kind, made in IN_LAYERS.items() if made().peft_type == "LORA"])
def test_every_lora_fits_the_base_models_outline(kind, base, tmp_path):
    adapter = make_adapter(IN_LAYERS[kind], base, tmp_path / "a")
    config = TeacherConfig(base_model=base, adapter=adapter)
    bare, *_ = outline(config.model_copy(update={"adapter": ""}), Source.find("teacher.base_model", base))[1:]
    assert outline(config, Source.find("teacher.base_model", base))[1] == bare


def test_what_does_not_fit_is_refused_from_the_outline_before_any_weights_are_read(base, adapter):
    config, source = TeacherConfig(base_model=base, adapter=str(adapter)), Source.find("teacher.base_model", base)
    whole = (adapter / FILE).read_bytes()
    for change, message in {
        renamed("layers.1.", "layers.7."): r"layers\.7\.\S+ has no place in teacher\.base_model, and 5 more",
        renamed(
            "q_proj.lora_B", "q_proj.lora_C"
        ): r"q_proj\.lora_C\.weight has no place in teacher\.base_model, and 1 more",
    }.items():
        (adapter / FILE).write_bytes(whole)
        rewrite(adapter, change)
        with pytest.raises(ConfigError, match=message):
            outline(config, source)
    (adapter / FILE).write_bytes(whole)
    rewrite(adapter, renamed("lora_A.", "lora_A.default."))
    outline(config, source)


@given(name=st.lists(st.sampled_from([*"ab", "module", "base_model", "model", "default", "layers", ""]), max_size=6))
def test_any_name_of_a_tensor_has_one_under_peft_that_stays(name, outlined):
    found = peft_name(".".join(name), outlined)
    assert peft_name(found, outlined) == found


@pytest.fixture(scope="module")
def outlined(teacher_folder):
    return base_model(f"{teacher_folder}/base")


def test_an_adapter_for_modules_that_are_not_there_says_which(teacher_folder, adapter):
    told(adapter, target_modules=["c_attn"])
    refused(teacher_folder, adapter, r"PEFT cannot load it \(\w+Error: Target modules .*c_attn.* not found")


def test_added_tokens_name_both_vocabularies_and_the_way_out(teacher_folder, base, tmp_path):
    model = base_model(base)
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + 8)
    adapter = make_adapter(IN_LAYERS["embeddings_saved"], base, tmp_path / "a", model=model)
    message = rf"\.weight is for {rows + 8} tokens, teacher\.base_model has {rows}; expected a base model resized"
    refused(teacher_folder, adapter, message)
    wider = base_model(base)
    wider.resize_token_embeddings(rows + 8)
    wider.save_pretrained(tmp_path / "base")
    for file in [file for name in ("*token*", "*.jinja") for file in Path(base).glob(name)]:
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    wanted = by_peft(tmp_path / "base", adapter)
    np.testing.assert_allclose(engine(tmp_path, adapter).encode(PROMPTS), wanted, atol=1e-5)


def test_a_trained_token_that_the_base_model_does_not_have_names_the_way_out(teacher_folder, base, tmp_path):
    adapter = Path(make_adapter(IN_LAYERS["tokens"], base, tmp_path / "a"))
    told(adapter, trainable_token_indices=[5, 6, 7000])
    refused(
        teacher_folder, adapter, r"trainable_token_indices is for 7001 tokens, teacher\.base_model has \d+; expected a"
    )


def test_a_setting_that_this_peft_does_not_know_is_refused_where_it_is_set(teacher_folder, base, adapter):
    wanted = by_peft(base, adapter)
    told(adapter, use_something_new=False, something_else=None)
    np.testing.assert_allclose(engine(teacher_folder, adapter).encode(PROMPTS), wanted, atol=1e-5)
    told(adapter, use_something_new=True)
    refused(
        teacher_folder, adapter, rf"the installed PEFT {peft.__version__} knows no use_something_new, which adapter_c"
    )


def test_a_kind_that_this_peft_does_not_know_is_refused(teacher_folder, adapter):
    told(adapter, peft_type="BONE")
    refused(teacher_folder, adapter, "knows no BONE; expected a newer PEFT")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("/tmp/this-must-not-be-there",)


def test_pickled_code_is_refused_and_not_run(teacher_folder, adapter):
    (adapter / FILE).unlink()
    torch.save({"a": Harmful()}, adapter / "adapter_model.bin")
    refused(teacher_folder, adapter, r"its weights cannot be read \(UnpicklingError\)")
    assert not Path("/tmp/this-must-not-be-there").exists()


def test_pickled_weights_that_are_cut_off_empty_or_no_tensors_are_refused(teacher_folder, adapter):
    tensors = load_file(adapter / FILE)
    (adapter / FILE).unlink()
    path = adapter / "adapter_model.bin"
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-500])
    refused(teacher_folder, adapter, "its weights cannot be read")
    torch.save({"a": 1}, path)
    refused(teacher_folder, adapter, "its weights file holds other things than tensors")
    torch.save({name: value[:0] for name, value in tensors.items()}, path)
    refused(teacher_folder, adapter, r"has shape \[0, \d+\], and 11 more like it: saved while DeepSpeed ZeRO-3")


def test_two_adapters_in_one_file_are_refused(teacher_folder, adapter):
    rewrite(
        adapter,
        lambda tensors: {**tensors, **renamed("lora_A.", "lora_A.default.")({n: v + 1 for n, v in tensors.items()})},
    )
    refused(
        teacher_folder,
        adapter,
        r"two of its tensors are base_model\.model\.model\.layers\.\S+; expected a folder with one",
    )
