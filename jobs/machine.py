"""Looks at the machine that runs this: versions, disks, marks on the shared storage, models. `ckd doctor` judges it."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from platform import python_version
from typing import Any

from ckd import __version__
from ckd.config import Config
from ckd.errors import CkdError
from ckd.store.files import delete, join, read_bytes, write_bytes
from ckd.store.models import adapter_hash, model_seen
from ckd.store.versions import versions as installed
from ckd.teacher.adapter import read_adapter
from jobs import devices
from jobs.models import require_student, require_teacher
from jobs.surroundings import wants

LIBRARIES = ("ray", "torch", "transformers", "peft", "deepspeed", "pyarrow")


def look(marks: Mapping[str, str], models: Config | None, in_ray: bool = False) -> dict[str, Any]:
    """What this machine has: versions, how it asks for the token, disks, marks it can read, fingerprints of models.

    Where `models` asks for GPUs, also what they computed; `in_ray`: Ray hides them from this process.
    """
    free = {}
    for folder in (tempfile.gettempdir(), str(Path.home())):
        with suppress(OSError):
            usage = shutil.disk_usage(folder)
            free[folder] = (usage.free, usage.total)
    asks = models is not None and max(models.teacher.gpus_per_worker, models.student.gpus_per_worker) > 0
    found, layers = _models(models) if models else ({}, 0)
    return {
        "surroundings": list(wants()),
        "devices": devices.ask(in_ray) if asks else {},
        "need": devices.need(models, layers) if models else 0,
        "compiler": devices.compiler_lacks(),
        "versions": versions(),
        "auth": os.environ.get("RAY_AUTH_MODE", "unset"),
        "disks": free,
        "storage": {url: read_mark(url, mark) for url, mark in marks.items()},
        "models": found,
    }


def versions() -> dict[str, str]:
    """Of Python, this project and the libraries; "-" for one that is not installed."""
    libraries = {name: found or "-" for name, found in installed(LIBRARIES).items()}
    return {"python": python_version(), "ckd": __version__, **libraries}


def leave_marks(folders: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Write a small file into each folder: URL -> content; and for each folder where that failed, what to do."""
    marks, refused = {}, []
    for folder in folders:
        url, mark = join(folder, f".doctor-{uuid.uuid4().hex}"), uuid.uuid4().hex
        try:
            write_bytes(url, mark.encode())
            marks[url] = mark
        except CkdError as error:
            refused.append(str(error))
        except OSError as error:
            kind = type(error).__name__
            refused.append(f"{folder}: cannot be written ({kind}); check the path and this account's rights")
    return marks, refused


def read_mark(url: str, mark: str) -> str:
    """Empty when the mark is there, else what to do."""
    folder = url.rpartition("/")[0]
    try:
        if read_bytes(url).decode() == mark:
            return ""
    except FileNotFoundError:
        pass
    except CkdError as error:
        return str(error)
    except (OSError, UnicodeDecodeError) as error:
        return f"{folder} cannot be read ({type(error).__name__}); give this machine access"
    return f"{folder}: what the driver wrote is not there; mount the same storage at the same path"


def remove_marks(marks: Mapping[str, str]) -> None:
    """Delete the marks; one that cannot be deleted stays."""
    for url in marks:
        with suppress(CkdError, OSError):
            delete(url)


def _models(config: Config) -> tuple[dict[str, str], int]:
    """Fingerprint of each model as this machine sees it, or "!" and why there is none; weights of the teacher's layers.

    A model that is not whole counts 0 weights.
    """
    checks: dict[str, Callable[[Config], int | None]] = {
        "teacher.base_model": require_teacher,
        "student.base_model": require_student,
    }
    weights = {}

    def fingerprint(key: str, name: str) -> str:
        try:
            if key in checks:
                weights[key] = checks[key](config)
                return model_seen(key, name)
            read_adapter(name)
            return adapter_hash(key, name)
        except CkdError as error:
            return f"!{error}"

    named = {
        "teacher.base_model": config.teacher.base_model,
        "teacher.adapter": config.teacher.adapter,
        "student.base_model": config.student.base_model,
    }
    found = {key: fingerprint(key, name) for key, name in named.items() if name}
    return found, weights.get("teacher.base_model") or 0
