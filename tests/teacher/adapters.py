"""Adapters of every kind that PEFT puts into layers, made on a small base model, and PEFT's own forward over them."""

import warnings
from pathlib import Path

import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM

from tests.teacher.engine_contract import ids

ALL, SQUARE = ["q_proj", "v_proj", "down_proj"], ["q_proj", "o_proj"]  # square: the same width in and out
PROMPTS = [[5, 6, 7, 8, 5, 6, *ids(20, seed=1)], [7], ids(40, seed=2)]  # 5 to 7 are the tokens trained by themselves


def _lora(**settings):
    given = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "task_type": "CAUSAL_LM"}
    return peft.LoraConfig(**(given | settings))


PLAIN_LORA = {
    "lora": lambda: _lora(),
    "rslora": lambda: _lora(use_rslora=True),
    "gaussian": lambda: _lora(init_lora_weights="gaussian"),
    "all_linear": lambda: _lora(target_modules="all-linear"),
    "one_layer": lambda: _lora(layers_to_transform=[1], layers_pattern="layers"),
    "expression": lambda: _lora(target_modules=r".*layers\.0\..*\.(q|o)_proj"),
}
OTHER_LORA = {
    "dora": lambda: _lora(use_dora=True),
    "pissa": lambda: _lora(init_lora_weights="pissa"),
    "olora": lambda: _lora(init_lora_weights="olora"),
    "patterns": lambda: _lora(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "bias_all": lambda: _lora(bias="all"),
    "bias_lora_only": lambda: _lora(bias="lora_only"),
    "lora_bias": lambda: _lora(lora_bias=True, target_modules=["q_proj", "v_proj"]),
    "lora_bias_without_a_bias": lambda: _lora(lora_bias=True),
    "embeddings_saved": lambda: _lora(modules_to_save=["embed_tokens"]),
    "head_saved": lambda: _lora(modules_to_save=["lm_head", "embed_tokens"]),
    "norms_saved": lambda: _lora(modules_to_save=["input_layernorm", "norm"]),
    "tokens": lambda: _lora(trainable_token_indices=[5, 6, 7]),
    "embeddings": lambda: _lora(target_modules=["q_proj", "embed_tokens"]),
    "parameters": lambda: _lora(target_modules=[], target_parameters=["q_proj.weight"]),
}
OTHER_KINDS = {
    "adalora": lambda: peft.AdaLoraConfig(target_modules=ALL, total_step=10),
    "adamss": lambda: peft.AdamssConfig(target_modules=SQUARE),
    "beft": lambda: peft.BeftConfig(target_modules=SQUARE),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=SQUARE),
    "c3a": lambda: peft.C3AConfig(block_size=8, target_modules=SQUARE),
    "deft": lambda: peft.DeftConfig(target_modules=SQUARE),
    "delora": lambda: peft.DeloraConfig(r=4, target_modules=SQUARE),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=20, target_modules=ALL),
    "frod": lambda: peft.FrodConfig(target_modules=SQUARE),
    "glora": lambda: peft.GloraConfig(r=4, target_modules=SQUARE),
    "gralora": lambda: peft.GraloraConfig(r=4, gralora_k=2, target_modules=SQUARE),
    "hira": lambda: peft.HiraConfig(r=4, target_modules=SQUARE),
    "hra": lambda: peft.HRAConfig(r=4, target_modules=ALL),
    "ia3": lambda: peft.IA3Config(target_modules=ALL, feedforward_modules=["down_proj"]),
    "ln_tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=ALL),
    "lokr": lambda: peft.LoKrConfig(r=4, target_modules=ALL),
    "miss": lambda: peft.MissConfig(r=4, target_modules=ALL),
    "oft": lambda: peft.OFTConfig(oft_block_size=8, r=0, target_modules=ALL),
    "osf": lambda: peft.OSFConfig(target_modules=SQUARE),
    "peanut": lambda: peft.PeanutConfig(target_modules=SQUARE),
    "psoft": lambda: peft.PsoftConfig(r=4, target_modules=SQUARE),
    "pvera": lambda: peft.PveraConfig(target_modules=SQUARE),
    "randlora": lambda: peft.RandLoraConfig(r=4, target_modules=SQUARE),
    "randlora_from_its_seed": lambda: peft.RandLoraConfig(r=4, target_modules=SQUARE, save_projection=False),
    "road": lambda: peft.RoadConfig(variant="road_1", group_size=8, target_modules=ALL),
    "shira": lambda: peft.ShiraConfig(r=4, target_modules=ALL),
    "supertuning": lambda: peft.SupertuningConfig(target_modules=SQUARE),
    "tinylora": lambda: peft.TinyLoraConfig(target_modules=SQUARE),
    "trainable_tokens": lambda: peft.TrainableTokensConfig(token_indices=[5, 6, 7]),
    "unilora": lambda: peft.UniLoraConfig(target_modules=SQUARE),
    "vblora": lambda: peft.VBLoRAConfig(r=4, num_vectors=16, vector_length=8, target_modules=SQUARE),
    "vblora_topk": lambda: peft.VBLoRAConfig(
        r=4, num_vectors=16, vector_length=8, target_modules=SQUARE, save_only_topk_weights=True
    ),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=SQUARE),
    "vera_from_its_seed": lambda: peft.VeraConfig(r=4, target_modules=SQUARE, save_projection=False),
    "waveft": lambda: peft.WaveFTConfig(n_frequency=20, target_modules=ALL),
}
IN_LAYERS = {**PLAIN_LORA, **OTHER_LORA, **OTHER_KINDS}
REFUSED = {
    # The kind, and what PEFT makes of it; three kinds take more than a small Qwen2 to be made.
    "activated_lora": lambda: _lora(alora_invocation_tokens=[5, 6]),
    "cpt": lambda: peft.CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[1, 2, 3], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 4]
    ),
    "cartridge": lambda: peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "multitask": lambda: peft.MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, num_tasks=2),
    "p_tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    "poly": lambda: peft.PolyConfig(task_type="CAUSAL_LM", r=4, n_tasks=2, n_skills=2, target_modules=ALL),
    "lily": lambda: peft.LilyConfig(target_modules=SQUARE),
    "pissa_by_chance": lambda: _lora(init_lora_weights="pissa_niter_4"),
    "prefix_tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prompt_tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


def base_model(base, kind=AutoModelForCausalLM):
    return kind.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")


def make_adapter(settings, base, to, model=None, scale=0.05):
    """Save an adapter with random values, `scale` away from where PEFT starts, into a folder; returns its name."""
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        tuned = peft.get_peft_model(model or base_model(base), settings())
        for value in tuned.parameters():
            if value.requires_grad and value.is_floating_point():
                value += scale * torch.randn_like(value)
        tuned.peft_config["default"].base_model_name_or_path = str(base)
        tuned.save_pretrained(to)
    return str(to)


def by_peft(base, adapter, prompts=PROMPTS):
    """float32 [n, hidden] at each last token: base model and adapter as PEFT loads and runs them; None: no adapter."""
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.manual_seed(2)
        model = base_model(base).eval()
        if adapter is not None:
            model = peft.PeftModel.from_pretrained(model, Path(adapter)).eval()
        rows = [model(input_ids=torch.tensor([p]), output_hidden_states=True).hidden_states[-1][0, -1] for p in prompts]
        return torch.stack(rows).numpy()


def moves(base, adapter):
    """How far PEFT's own forward moves an embedding with this adapter, at most."""
    return np.abs(by_peft(base, adapter) - by_peft(base, None)).max()
