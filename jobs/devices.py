"""Whether a machine's GPUs compute, and whether it can compile kernels; `ckd doctor` asks every machine.

`python -m jobs.devices` prints what it found as JSON: a process of its own, since a broken driver may end it, and since
Ray hides the GPUs from what reserves none.
"""

import ctypes
import json
import os
import shutil
import subprocess  # nosec B404
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ckd.config import Config

SECONDS_TO_COMPUTE = 120.0
SIDE = 256  # of the matrices that are multiplied


def ask(in_ray: bool) -> dict[str, Any]:
    """What a new process finds: see `look`; {"error"} where it ends without an answer."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if not in_ray or name != "CUDA_VISIBLE_DEVICES"}
    words, env = [sys.executable, "-P", "-m", "jobs.devices"], {**kept, "PYTHONPATH": path}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_TO_COMPUTE, env=env)  # nosec B603
        return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {SECONDS_TO_COMPUTE:.0f} s"}
    except ValueError:
        return {"error": f"the process that computed ended with code {done.returncode}"}


def look() -> dict[str, Any]:
    """torch, its CUDA and the driver's ("" for none); of each GPU its name, free and all bytes, and why it fails.

    The kernel is a matrix product in bfloat16, whose value is known.
    """
    import torch

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "driver": _driver(),
        "devices": [],
    }
    for number in range(torch.cuda.device_count()):
        one: dict[str, Any] = {"name": "", "free": 0, "total": 0, "error": ""}
        found["devices"].append(one)
        try:
            one["name"] = torch.cuda.get_device_name(number)
            ones = torch.ones(SIDE, SIDE, device=f"cuda:{number}", dtype=torch.bfloat16)
            product = float((ones @ ones).float().sum())
            one["free"], one["total"] = torch.cuda.mem_get_info(number)
            one["error"] = "" if product == SIDE**3 else f"a product of ones is {product:g}, not {SIDE**3}"
        except RuntimeError as error:  # how torch reports whatever CUDA says
            one["error"] = str(error).strip().partition("\n")[0]
    return found


def _driver() -> str:
    """The newest CUDA that the driver takes, "13.0"; "" where there is no driver, or its library is not found."""
    try:
        number = ctypes.c_int()
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def lacks(found: Mapping[str, Any], gpus: float, need: int) -> Iterator[str]:
    """What is wrong with a machine's GPUs, and what to do, for workers of `gpus` GPUs with `need` bytes on each."""
    if without := _cannot(found):
        yield without
        return
    for number, one in enumerate(found["devices"]):
        if one["error"]:
            yield f"GPU {number} ({one['name']}): {one['error']}; look at nvidia-smi and dmesg"
    able = [one for one in found["devices"] if not one["error"]]
    if len(able) < gpus:
        yield f"{len(able)} GPUs compute, a worker asks for {gpus:g}; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    elif able and (least := min(able, key=lambda one: int(one["free"])))["free"] < need:
        yield (
            f"{least['name']} has {least['free'] / 1e9:.1f} of {least['total'] / 1e9:.1f} GB free, the teacher's "
            f"layers alone take {need / 1e9:.1f}; end what else runs there (nvidia-smi), or spread it over "
            "larger or more GPUs (teacher.device_map, teacher.tensor_parallel)"
        )


def _cannot(found: Mapping[str, Any]) -> str:
    """Why no GPU of the machine can compute, and what to do; "" where they may."""
    if found.get("error"):
        return f"no kernel ran: {found['error']}; look at nvidia-smi and dmesg"
    if not found["cuda"]:
        return f"torch {found['torch']} is built without CUDA; install the one from PyPI"
    if not found["driver"]:
        return (
            "libcuda.so.1 is not found; install the NVIDIA driver, start a container with GPUs (--gpus all), on GKE "
            "set LD_LIBRARY_PATH=/usr/local/nvidia/lib64"
        )
    if int(found["driver"].partition(".")[0]) < int(found["cuda"].partition(".")[0]):
        return (
            f"the driver takes CUDA {found['driver']}, torch {found['torch']} is built for {found['cuda']}; update the "
            "driver (580 or newer for CUDA 13), or install torch for the older CUDA"
        )
    return ""


def need(config: Config, layers: int) -> int:
    """Bytes on each GPU for a teacher whose layers have so many weights; workers of .5 GPUs share one."""
    teacher = config.teacher
    spread = teacher.gpus_per_worker if teacher.device_map or teacher.tensor_parallel > 1 else 1
    size = 4 if teacher.dtype == "float32" else 2
    return int(layers * size / max(spread, 1) / min(teacher.gpus_per_worker or 1, 1))


def shown(found: Mapping[str, Any]) -> str:
    """One line of a machine whose GPUs compute."""
    names = ", ".join(sorted({one["name"] for one in found["devices"]}))
    least = min((one["free"] for one in found["devices"]), default=0)
    return (
        f"a kernel ran on each of {len(found['devices'])} GPUs ({names}), at least {least / 1e9:.0f} GB free; driver "
        f"for CUDA {found['driver']}, torch for {found['cuda']}"
    )


def compiles(config: Config) -> bool:
    """Whether a stage compiles kernels while it runs, for which Triton calls a C compiler."""
    teacher = config.teacher
    return bool(teacher.gpus_per_worker and (teacher.compile or teacher.engine == "vllm"))


def compiler_lacks() -> str:
    """What Triton would miss on this machine, and what to do; "" for nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")):
        return "no C compiler, which Triton calls; install gcc, or name one in CC"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return f"{header} is missing, which Triton compiles with; install python3-dev"
    return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()) + "\n")
