"""The weights and tokenizer behind a folder, a URL or a Hub id: their fingerprint fields, found without loading them.

A model at a URL is copied once per machine, into <user cache>/models.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckd.errors import ConfigError
from ckd.store.artifacts import Fields
from ckd.store.files import digest, exists, inner, join, listing, read_bytes
from ckd.store.filesystems import is_local, reaching, resolve
from ckd.store.folders import cache_folder, copy_down, fetched_folder, made_once
from ckd.store.hub import adapter_files, adapter_on_hub, model_files, readable, small_files
from ckd.store.modelfiles import require_usable

if TYPE_CHECKING:
    from pyarrow import fs

_TOKENIZER = ("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template", "spiece")
_WEIGHTS = (".safetensors", ".bin")
_WHOLE = 64 << 20  # files up to this size are hashed whole
_SAMPLES, _BLOCK = 256, 64 << 10  # of larger ones, evenly spaced blocks: 15 GB of weights cost a fraction of a second


def model_fields(key: str, name: str) -> Fields:
    """`{<key>, <key> tokenizer}`, `key` being the config key: hashes of a folder's content, or org/name@commit.

    A folder and its copy at a URL have the same hashes. At a URL the same few blocks are read (16 MB of a large file),
    or this machine's copy where there is one. Raises ConfigError when `name` is none of these.
    """
    if not _is_folder(name):
        found = readable(key, name, "config.json")
        return {key: found, f"{key} tokenizer": found}
    if not is_local(name):
        copy = _copy_of(name, _require_model(key, name))
        name = str(copy) if copy.is_dir() else name
    require_usable(key, name, _require_model(key, name))
    return {
        key: folder_hash(name, lambda f: f == "config.json" or f.endswith(_WEIGHTS)),
        f"{key} tokenizer": folder_hash(name, lambda f: f.startswith(_TOKENIZER)),
    }


def local_folder(key: str, name: str) -> str:
    """The folder that the model libraries can load: `name`, or this machine's copy of a URL or Hub id, made if need be.

    The copy's name is a hash of the URL and its listing (names, sizes, times), so a changed model is another copy; of
    a Hub id it is the Hub cache's folder of one commit, so nothing that loads it needs a revision.
    Raises ConfigError when no model lies there, UnreachableError when the Hub does not answer.
    """
    if Path(name).is_dir():
        return name
    if is_local(name):
        return model_files(key, name)
    files = _require_model(key, name)
    copy = _copy_of(name, files)
    made_once(copy, lambda folder: copy_down(name, {file.base_name: {"size": file.size} for file in files}, folder))
    return str(copy)


@contextmanager
def without_weights(key: str, name: str) -> Iterator[str]:
    """The folder in which the libraries find a model's configuration and tokenizer; for a URL it is a temporary one.

    Raises ConfigError when no model lies there, UnreachableError when the Hub does not answer.
    """
    if is_local(name):
        yield name if Path(name).is_dir() else small_files(key, name)
        return
    files = [file for file in _require_model(key, name) if not file.base_name.endswith(_WEIGHTS)]
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            Path(inner(folder, file.base_name)).write_bytes(read_bytes(join(name, file.base_name)))
        yield folder


def known_positions(name: str) -> int | None:
    """The most tokens that the config.json of a folder or URL allows; None where it does not say, and for a Hub id."""
    try:
        settings = json.loads(read_bytes(join(name, "config.json")))
    except (OSError, ValueError):
        return None
    known = settings.get("max_position_embeddings") if isinstance(settings, dict) else None
    return known if isinstance(known, int) else None


def adapter_hash(key: str, name: str) -> str:
    """Content hash of a LoRA folder, local or at a URL, or org/name@commit.

    Raises ConfigError when it holds no adapter_config.json, UnreachableError when the Hub does not answer.
    """
    if adapter_on_hub(name):
        return readable(key, name, "adapter_config.json")
    if not exists(join(name, "adapter_config.json")):
        expected = "expected a LoRA folder as PEFT or LLaMA-Factory write it, or org/name@revision of the Hub"
        raise ConfigError(f"{key}={name}: no adapter_config.json there; {expected}")
    return folder_hash(name, lambda f: f.startswith("adapter_"))


def local_adapter(name: str) -> str:
    """The folder that PEFT and vLLM can load: `name`, or this machine's copy of a URL or a Hub id."""
    if adapter_on_hub(name):
        return adapter_files("teacher.adapter", name)
    return fetched_folder(name, lambda file: "/" not in file)  # LLaMA-Factory keeps whole checkpoints in folders below


def folder_hash(folder: str | Path, wanted: Callable[[str], bool]) -> str:
    """A short SHA-256 over the names and contents of the wanted files directly in a folder or at a URL."""
    filesystem, _ = resolve(str(folder))
    sha = hashlib.sha256()
    with ThreadPoolExecutor(8) as pool:  # at a URL every block is a request of its own
        for file in _files(str(folder)):
            if not wanted(file.base_name):
                continue
            size = file.size
            sha.update(f"{file.base_name}\n{size}\n".encode())
            starts = range(0, size, max(size // _SAMPLES, _BLOCK) if size > _WHOLE else _BLOCK)
            with reaching(str(folder)), filesystem.open_input_file(file.path) as stream:
                for block in pool.map(lambda start, stream=stream: stream.read_at(_BLOCK, start), starts):
                    sha.update(block)
    return sha.hexdigest()[:16]


def _is_folder(name: str) -> bool:
    return not is_local(name) or Path(name).is_dir()


def _files(folder: str) -> "list[fs.FileInfo]":
    """The files directly in a folder or at a URL, by name."""
    return [info for info in listing(folder) if info.is_file]


def _require_model(key: str, name: str) -> "list[fs.FileInfo]":
    """The files of a model folder; raises ConfigError when it is none, or the URL cannot be read."""
    try:
        files = _files(name)
    except (OSError, ValueError) as error:
        why = f"cannot be listed ({type(error).__name__})"
        raise ConfigError(f"{key}={name}: {why}; check the URL and this machine's access to it") from None
    if not any(file.base_name == "config.json" for file in files):
        raise ConfigError(f"{key}={name}: no config.json there; expected a model folder as save_pretrained writes it")
    return files


def _copy_of(name: str, files: "list[fs.FileInfo]") -> Path:
    listing = [[file.base_name, file.size, file.mtime_ns] for file in files]
    return cache_folder() / "models" / digest([name.rstrip("/"), listing])
