"""Which weights and tokenizer a folder or Hub id stands for: fingerprint fields found without loading a model or torch."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from ckd.errors import ConfigError
from ckd.store import Fields

_TOKENIZER = ("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template", "spiece")
_WEIGHTS = (".safetensors", ".bin")
_WHOLE = 64 << 20  # files up to this size are hashed whole
_SAMPLES, _BLOCK = 256, 64 << 10  # of larger ones: size and evenly spaced blocks, so that 15 GB of weights cost a fraction of a second


def model_fields(key: str, name: str) -> Fields:
    """`{<key>, <key> tokenizer}`: content hashes of a local folder, or the commit of a Hub id. `key` is the config key.

    Raises ConfigError when `name` is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{key}={name}: no config.json there; expected a model folder as save_pretrained writes it")
        return {
            key: folder_hash(folder, lambda f: f == "config.json" or f.endswith(_WEIGHTS)),
            f"{key} tokenizer": folder_hash(folder, lambda f: f.startswith(_TOKENIZER)),
        }
    commit = hub_commit(key, name)
    return {key: f"{name}@{commit}", f"{key} tokenizer": f"{name}@{commit}"}


def revision(key: str, name: str) -> str | None:
    """The `revision=` to load: None for a local folder, else the commit that `model_fields` names."""
    return None if Path(name).is_dir() else hub_commit(key, name)


def known_positions(name: str) -> int | None:
    """The most tokens that a local model folder's config.json allows; None where it does not say, and for a Hub id."""
    try:
        settings = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = settings.get("max_position_embeddings") if isinstance(settings, dict) else None
    return known if isinstance(known, int) else None


def adapter_hash(key: str, name: str) -> str:
    """Content hash of a LoRA adapter folder. Raises ConfigError when it holds no adapter_config.json."""
    folder = Path(name)
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{key}={name}: no adapter_config.json there; expected a LoRA folder as PEFT or LLaMA-Factory write it")
    return folder_hash(folder, lambda f: f.startswith("adapter_"))


def folder_hash(folder: Path, wanted: Callable[[str], bool]) -> str:
    """A short SHA-256 over the names and contents of the wanted files directly in a folder."""
    sha = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and wanted(p.name)):
        size = file.stat().st_size
        sha.update(f"{file.name}\n{size}\n".encode())
        with file.open("rb") as stream:
            for start in range(0, size, max(size // _SAMPLES, _BLOCK) if size > _WHOLE else _BLOCK):
                stream.seek(start)
                sha.update(stream.read(_BLOCK))
    return sha.hexdigest()[:16]


def hub_commit(key: str, name: str) -> str:
    """The commit of a Hub id: from the local cache when it is there (so runs do not move under the user), else asked of the Hub."""
    from huggingface_hub import constants, model_info
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        import httpx2 as httpx  # what huggingface_hub speaks since 1.20
    except ImportError:
        import httpx

    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ConfigError(f"{key}={name}: no such folder; expected a model folder or a Hub id such as Qwen/Qwen2.5-7B-Instruct")
    ref = Path(constants.HF_HUB_CACHE) / ("models--" + name.replace("/", "--")) / "refs" / "main"
    if ref.is_file():
        return ref.read_text(encoding="utf-8").strip()
    try:
        return str(model_info(name, timeout=10).sha)
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise ConfigError(
            f"{key}={name}: no such folder, not in the local Hub cache, and the Hub did not answer ({type(error).__name__}); "
            "give a folder or fetch it first"
        ) from None
