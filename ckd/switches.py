"""Switches of other programs in the environment: what the configuration says is what runs, so they are taken out.

A launcher (torchrun, Open MPI, Slurm's srun with PMI) leaves a rank and a world size, and training in this process
would wait for ever for the other ranks. accelerate, torch and transformers take precision, sharding and compilation
from variables that no fingerprint knows. Kernels and their last bits (OMP_NUM_THREADS, CUBLAS_WORKSPACE_CONFIG) stay
the machine's; caches, logs, offline modes and what vLLM reads stay the user's.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator

_OF_RAY_TRAIN = (
    "RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|NODE_RANK|MASTER_ADDR|MASTER_PORT"  # it sets them in a rank
)
_LAUNCHER = re.compile(
    rf"{_OF_RAY_TRAIN}|(GROUP|ROLE|TORCHELASTIC|PMI|OMPI_COMM_WORLD|MV2_COMM_WORLD|SMDATAPARALLEL)_\w+|MPI_LOCALRANKID"
)
_TF32 = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"  # torch reads it once, at its start
_VALUES = re.compile(
    rf"(ACCELERATE|FSDP|PARALLELISM_CONFIG|MEGATRON_LM|TORCHDYNAMO)_\w+|USE_TORCH_XLA|XLA_(USE|DOWNCAST)_BF16|{_TF32}"
    r"|TORCH_COMPILE_(DISABLE|BACKEND|OVERRIDE_BACKENDS|FORCE_FULLGRAPH)|NVIDIA_TF32_OVERRIDE"
    r"|TORCHINDUCTOR_(USE_FAST_MATH|EMULATE_\w+|FREEZING|CPP_ENABLE_UNSAFE_MATH_OPT_FLAG|BATCH_INVARIANT)"
    r"|TORCHINDUCTOR_DISABLED_PASSES"
    r"|TORCH_FORCE_(NO_)?WEIGHTS_ONLY_LOAD|PYTORCH_JIT|TRITON_INTERPRET|(ONEDNN|DNNL)_DEFAULT_FPMATH_MODE"
    r"|TRANSFORMERS_(SDPA_FORCE_GQA|DISABLE_DEEPGEMM_LINEAR|DISABLE_TORCH_CHECK)"
    r"|DS_(ALLOW_DEPRECATED_FP16|SDMA_ALLGATHER\w*)"
)


def foreign(names: Iterable[str], *, rank: bool = False) -> list[str]:
    """Those of `names` that are such switches; in a `rank` of Ray Train without those that Ray Train sets itself."""
    own = re.compile(_OF_RAY_TRAIN) if rank else re.compile(r"(?!)")
    return sorted(n for n in names if (_VALUES.fullmatch(n) or _LAUNCHER.fullmatch(n)) and not own.fullmatch(n))


def take_out(*, rank: bool = False) -> list[str]:
    """Remove the foreign switches from this process's environment, and with it from those that it starts."""
    found = foreign(os.environ, rank=rank)
    for name in found:
        del os.environ[name]
    torch = sys.modules.get("torch")
    if _TF32 in found and torch is not None:
        torch.set_float32_matmul_precision("highest")
    return found


def told(found: list[str]) -> Iterator[str]:
    """One line about what was taken out; none where nothing was."""
    if found:
        launched = any(_LAUNCHER.fullmatch(name) for name in found)
        ranks = "; ranks are started by student.workers, not by a launcher" if launched else ""
        yield f"not used, since only the configuration decides what is computed: {', '.join(found)}{ranks}"
