"""What DeepSpeed and the Trainer are told comes from the one YAML, at every ZeRO stage."""

import pytest
import torch

from ckd.configfile import load
from ckd.student.model import rows_per_micro_batch
from ckd.student.ranks import Place, Ranks
from ckd.student.trainer import training_arguments
from ckd.student.zero import GRADIENT_NORM, uses_bf16, zero_config

YAML = """
student:
  zero_stage: {stage}
  batch_size: 48
  gradient_accumulation: 3
  activation_checkpointing: true
  workers: 2
"""


@pytest.fixture(params=[0, 1, 2, 3])
def config(request, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(stage=request.param))
    return load(str(path))


@pytest.mark.parametrize("hardware", [False, True])
def test_every_stage_gets_the_yaml_s_accumulation_micro_batch_and_dtype(config, hardware):
    bf16 = uses_bf16(config.student.zero_stage, hardware)
    assert bf16 == (hardware and config.student.zero_stage > 0), "stage 0 has no float32 master weights"
    made = zero_config(config.student, rows=rows_per_micro_batch(48, 2, 3), bf16=bf16)
    assert made["zero_optimization"]["stage"] == config.student.zero_stage
    assert (made["gradient_accumulation_steps"], made["train_micro_batch_size_per_gpu"]) == (3, 8)
    assert (made["bf16"]["enabled"], made["fp16"]["enabled"], made["gradient_clipping"]) == (bf16, False, GRADIENT_NORM)
    assert "optimizer" not in made, "the Trainer's AdamW; another would be compiled at start"


def test_bf16_without_master_weights_is_refused():
    student = load(None, ["student.zero_stage=0"]).student
    with pytest.raises(ValueError, match="stage 1 or more"):
        zero_config(student, rows=8, bf16=True)
    assert uses_bf16(None, True), "without DeepSpeed autocast keeps float32 weights"


def test_the_trainer_gets_the_same_and_recomputes_activations_only_where_asked(config):
    place = Place(Ranks(2, 0), torch.device("cpu"), bf16=False, deepspeed=False)
    given = training_arguments(config, place, steps_per_epoch=5)
    assert (given.gradient_accumulation_steps, given.per_device_train_batch_size) == (3, 8)
    assert given.activation_checkpointing
    plain = config.model_copy(update={"student": config.student.model_copy(update={"activation_checkpointing": False})})
    assert not training_arguments(plain, place, steps_per_epoch=5).activation_checkpointing
