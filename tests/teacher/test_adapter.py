"""What an adapter's files say: a folder that cannot be run whole is refused in one line before anything is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from ckd.errors import ConfigError
from ckd.teacher.adapter import read_adapter
from ckd.teacher.embed import teacher_fields
from jobs import machine
from tests.teacher.embedded import embedded, visits

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


def settings(**changed):
    def edit(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return edit


def file(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def without(name):
    return lambda folder: (folder / name).unlink()


def emptied(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    gone = {name: value[:0].reshape(-1) if "layers.1" in name else value for name, value in tensors.items()}
    save_file(gone, folder / "adapter_model.safetensors")


def cut(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REFUSED = {
    "prompt_tuning": (
        settings(peft_type="PROMPT_TUNING"),
        "it is PROMPT_TUNING, which acts beside the layers; expected",
    ),
    "prefix_tuning": (settings(peft_type="PREFIX_TUNING"), "it is PREFIX_TUNING, which acts beside the layers"),
    "p_tuning": (settings(peft_type="P_TUNING"), "it is P_TUNING, which acts beside the layers"),
    "multitask": (settings(peft_type="MULTITASK_PROMPT_TUNING"), "it is MULTITASK_PROMPT_TUNING, which acts beside"),
    "cpt": (settings(peft_type="CPT"), "it is CPT, which acts beside the layers"),
    "cartridge": (settings(peft_type="CARTRIDGE"), "it is CARTRIDGE, which acts beside the layers"),
    "adaption_prompt": (settings(peft_type="ADAPTION_PROMPT"), "it is ADAPTION_PROMPT, which acts beside the layers"),
    "xlora": (settings(peft_type="XLORA"), "it is XLORA, which acts beside the layers"),
    "poly": (settings(peft_type="POLY"), "it is POLY, which acts beside the layers"),
    "shadow": (settings(peft_type="SHADOW"), "it is SHADOW, which acts beside the layers"),
    "alora": (
        settings(alora_invocation_tokens=[5, 6]),
        "sets alora_invocation_tokens: activated LoRA acts beside the layers; expected",
    ),
    "replicated": (
        settings(layer_replication=[[0, 2], [1, 2]]),
        "sets layer_replication: repeated layers would share one cache",
    ),
    "no_json": (file("adapter_config.json", b"{"), "adapter_config.json is no JSON; expected a LoRA folder as PEFT"),
    "no_settings": (file("adapter_config.json", b"[]"), "adapter_config.json names no peft_type"),
    "no_kind": (settings(peft_type=None), "adapter_config.json names no peft_type"),
    "pointer_settings": (file("adapter_config.json", POINTER), "adapter_config.json is a Git LFS pointer"),
    "pointer": (
        file("adapter_model.safetensors", POINTER),
        "adapter_model.safetensors is a Git LFS pointer.*lfs pull",
    ),
    "cut_off": (cut, r"adapter_model.safetensors has [\d,]+ bytes, its header names [\d,]+: damaged"),
    "no_weights": (
        without("adapter_model.safetensors"),
        "neither adapter_model.safetensors nor adapter_model.bin there",
    ),
    "zero_3": (
        emptied,
        r"base_model\.model\.model\.layers\.1\.\S+ has shape \[0\], and 13 more like it: .*ZeRO-3.*zero_to",
    ),
    "no_tensors": (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "holds no tensors"),
}


@pytest.fixture
def adapter(teacher_folder, tmp_path):
    return Path(shutil.copytree(f"{teacher_folder}/adapter", tmp_path / "adapter"))


def test_a_whole_adapter_is_what_its_files_say(adapter):
    found = read_adapter(str(adapter))
    assert found.kind == "LORA" and found.settings["r"] == 4
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: value.shape for name, value in load_file(adapter / "adapter_model.safetensors").items()
    }


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_whole_is_refused_in_one_line(case, adapter):
    breaks, message = REFUSED[case]
    breaks(adapter)
    with pytest.raises(ConfigError, match=message) as error:
        read_adapter(str(adapter))
    assert str(error.value).startswith(f"teacher.adapter={adapter}: ") and "\n" not in str(error.value)


def test_a_pickled_adapter_that_is_a_git_lfs_pointer_is_named(adapter):
    without("adapter_model.safetensors")(adapter)
    (adapter / "adapter_model.bin").write_bytes(POINTER)
    with pytest.raises(ConfigError, match="adapter_model.bin is a Git LFS pointer"):
        read_adapter(str(adapter))


def test_the_driver_and_the_doctor_refuse_before_a_worker_is_asked_for(adapter, teacher_folder, tmp_path):
    settings(peft_type="PREFIX_TUNING")(adapter)
    named = [f"teacher.base_model={teacher_folder}/base", f"teacher.adapter={adapter}"]
    config, *_ = embedded(tmp_path, visits(["train"] * 4), overrides=named)
    with pytest.raises(ConfigError, match="it is PREFIX_TUNING"):
        teacher_fields(config)
    assert machine._models(config)[0]["teacher.adapter"].startswith(f"!teacher.adapter={adapter}: it is PREFIX_TUNING")


def test_the_driver_refuses_what_vllm_would_apply_in_part(adapter, teacher_folder, tmp_path):
    settings(use_dora=True)(adapter)
    named = [f"teacher.base_model={teacher_folder}/base", f"teacher.adapter={adapter}"]
    config, *_ = embedded(tmp_path, visits(["train"] * 4), overrides=[*named, "teacher.engine=vllm"])
    with pytest.raises(ConfigError, match="sets use_dora; expected plain LoRA"):
        teacher_fields(config)


def test_an_adapter_is_read_without_torch(adapter):
    code = f"from ckd.teacher.adapter import read_adapter; read_adapter({str(adapter)!r}); import sys; "
    code += "assert not {'torch', 'peft', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
