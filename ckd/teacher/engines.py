"""Loads the engine that `teacher.engine` names, and only its library."""

from ckd.config import TeacherConfig
from ckd.teacher.engine import Engine


def load_engine(config: TeacherConfig, gpus: float) -> Engine:
    """Load the configured engine onto a GPU (gpus > 0) or the CPU. Raises ConfigError."""
    if config.engine == "vllm":
        from ckd.teacher.engine_vllm import VllmEngine

        return VllmEngine(config, gpus)
    from ckd.teacher.engine_hf import TransformersEngine

    return TransformersEngine(config, gpus)
