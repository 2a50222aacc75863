"""The DeepSpeed configuration of the student, and the switch that keeps DeepSpeed from compiling at start."""

import os
import warnings
from typing import Any

from ckd.config import StudentConfig

GRADIENT_NORM = 1.0  # gradients are clipped to this L2 norm, with and without DeepSpeed
_BUCKET = 50_000_000  # elements per gradient bucket: 200 MB; DeepSpeed's default of 2 GB suits models 10 times a BERT


def uses_bf16(zero_stage: int | None, hardware_has_it: bool) -> bool:
    """Take bf16 where the hardware has it, but not with ZeRO stage 0 (None: no ZeRO): its weights are not float32."""
    return hardware_has_it and zero_stage != 0


def zero_config(student: StudentConfig, *, rows: int, bf16: bool, universal: bool = False) -> dict[str, Any]:
    """The dict for TrainingArguments(deepspeed=…), for at most `rows` visits per micro-batch.

    There is no "optimizer" section on purpose: the Trainer's torch AdamW (no decay on biases and norms) is the same
    with and without DeepSpeed, and DeepSpeed's own FusedAdam would be compiled first.
    """
    if bf16 and student.zero_stage == 0:
        raise ValueError("bf16 needs ZeRO stage 1 or more")
    zero: dict[str, Any] = {"stage": student.zero_stage}
    if student.zero_stage in (1, 2):
        zero |= {"reduce_bucket_size": _BUCKET, "allgather_bucket_size": _BUCKET}
    if student.zero_stage == 3:
        zero |= {"reduce_bucket_size": _BUCKET, "stage3_gather_16bit_weights_on_model_save": True}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bf16},
        "fp16": {"enabled": False},
        "gradient_accumulation_steps": student.gradient_accumulation,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_clipping": GRADIENT_NORM,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
        "checkpoint": {"load_universal": universal},
    }


def choose_device(device: str) -> None:
    """Tell DeepSpeed its device ("cpu" or "cuda"): it would warn otherwise, even unused, as accelerate imports it."""
    os.environ["DS_ACCELERATOR"] = device


def without_compiler() -> None:
    """Keep DeepSpeed from compiling collectives on a CPU, which takes minutes, and torch from warning of its calls."""
    import deepspeed.ops

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
