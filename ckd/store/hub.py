"""Models on the Hugging Face Hub: the commit that `org/name@revision` names, and its files on this machine.

HF_TOKEN says who asks, HF_HUB_OFFLINE=1 that nobody is asked, HF_HOME where the files lie.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ckd.errors import CkdError, ConfigError, ModelUnreachableError
from ckd.store.files import inner
from ckd.store.refusals import proxies
from ckd.store.tokenizing import NOT_READ

_ID = re.compile(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@(\w[\w./-]*))?", re.ASCII)
_SECONDS = 10  # without an answer
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order in which transformers looks for them


def is_hub_id(name: str) -> bool:
    """Whether a name is no folder here and can be `org/name` or `org/name@revision` (branch, tag or commit)."""
    return bool(_ID.fullmatch(name)) and not Path(name).is_dir()


def adapter_on_hub(name: str) -> bool:
    """Whether teacher.adapter names a Hub repository: only with its @revision; `lora/model` is a folder."""
    return "@" in name and is_hub_id(name)


def repository(name: str) -> str:
    """`org/name` of a Hub id."""
    return name.partition("@")[0]


def readable(key: str, name: str, file: str) -> str:
    """`org/name@commit`, where this machine may read that file of it: a gated model's commit alone is public.

    Fetches the file, once per machine, and with it the cache notes which commit a branch or tag stands at: from then on
    it is that one here, so that a run does not change by itself, and nobody is asked again. Raises ConfigError when
    `name` is no Hub id, the Hub refuses or there is no such file, ModelUnreachableError when the Hub does not answer.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    repo, revision = _asked(key, name)
    library = _library()
    try:
        try:
            path = library.hf_hub_download(repo, file, revision=revision, local_files_only=True)
        except LocalEntryNotFoundError:
            library.HfApi().model_info(repo, revision=revision, timeout=_SECONDS)  # asks once, a download for a minute
            path = library.hf_hub_download(repo, file, revision=revision)
    except RemoteEntryNotFoundError:
        raise ConfigError(f"{key}={name}: no {file} in {_where(name)}; is it the right repository?") from None
    except _failures() as error:
        raise _explained(key, name, error) from None
    return f"{repo}@{Path(path).parent.name}"


def small_files(key: str, name: str) -> str:
    """The local folder with a repository's configuration and tokenizer, fetched if need be. Raises as `readable`."""
    return str(_fetched(key, name, ignore_patterns=list(NOT_READ)))


def model_files(key: str, name: str) -> str:
    """The local folder with what transformers loads of a repository, fetched if need be: no other format's weights.

    Raises as `readable`, and ConfigError when it has no weights that transformers loads.
    """
    folder = Path(small_files(key, name))
    for file in _WEIGHTS:
        names = _shards(folder / f"{file}.index.json") or [file]
        if _complete(key, name, folder, names):
            return str(folder)
    raise ConfigError(
        f"{key}={name}: neither {' nor '.join(_WEIGHTS)}, whole or in shards, in {_where(name)}; "
        "expected a model as save_pretrained writes it"
    )


def adapter_files(key: str, name: str) -> str:
    """The local folder with what PEFT loads of a repository, fetched if need be.

    Raises as `readable`, and ConfigError when there is no adapter in it.
    """
    folder = Path(small_files(key, name))
    whole = any(_complete(key, name, folder, [f"adapter_model.{suffix}"]) for suffix in ("safetensors", "bin"))
    if not whole or not (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{key}={name}: no adapter_config.json with adapter_model.safetensors or .bin in {_where(name)}; "
            "expected an adapter as PEFT or LLaMA-Factory write it"
        )
    return str(folder)


def _asked(key: str, name: str) -> tuple[str, str]:
    """Repository and revision to ask for: the commit where it is named, or where the local cache has the revision's."""
    found = _ID.fullmatch(name)
    if not found:
        expected = "expected a folder or a Hub id such as Qwen/Qwen2.5-7B-Instruct or org/name@revision"
        raise ConfigError(f"{key}={name}: no such folder; {expected}")
    repo, revision = found[1], found[2] or "main"
    ref = Path(_library().constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--")) / "refs" / revision
    return repo, ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision


def _library() -> Any:
    import huggingface_hub as library
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they, and notes of each retry, would stand among the run's own lines
    library.utils.logging.set_verbosity_error()
    library.constants.HF_HUB_DISABLE_TELEMETRY = True  # it tells the Hub of libraries and of who started them
    return library


def _fetched(key: str, name: str, **patterns: list[str]) -> Path:
    repo, revision = _asked(key, name)
    try:
        return Path(_library().snapshot_download(repo, revision=revision, **patterns))
    except _failures() as error:
        raise _explained(key, name, error) from None


def _complete(key: str, name: str, folder: Path, files: Iterable[str]) -> bool:
    """Whether the repository has all these files, which then lie in `folder`."""
    paths = [Path(inner(str(folder), file)) for file in files]
    if not all(path.is_file() for path in paths):
        _fetched(key, name, allow_patterns=list(files))
    return all(path.is_file() for path in paths)


def _shards(index: Path) -> list[str]:
    """The weight files that an index names; none without an index."""
    try:
        return sorted({str(file) for file in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _where(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository(name)}"


def _failures() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises when it cannot fetch."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        import httpx2 as httpx  # what huggingface_hub speaks since 1.20
    except ImportError:
        import httpx

    return HfHubHTTPError, httpx.HTTPError, OSError


def _explained(key: str, name: str, error: Exception) -> CkdError:
    """One line for a failed request: exit code 2 for what the user must mend, 3 for a Hub that does not answer now."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    where, token = f"{key}={name}: no such folder here", get_token()
    if isinstance(error, OfflineModeIsEnabled):
        cached = "HF_HUB_OFFLINE=1 and it is not, or not whole, in the local Hub cache"
        return ConfigError(f"{where}, {cached}; fetch it with 'hf download {_command(name)}' first, or give a folder")
    response = getattr(error, "response", None)
    if response is not None:
        return _refused(where, name, error, response.status_code, has_token=bool(token))
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        why = f"cannot be fetched ({os.strerror(error.errno)})"
        return ConfigError(f"{key}={name}: {why}; make room for the Hub cache, or set HF_HOME to where there is")
    return ModelUnreachableError(
        f"{where}, and {_where(name)} does not answer ({type(error).__name__}); check the network and HF_ENDPOINT"
        f"{' and ' + proxies() if proxies() else ''}, then run the same command again, or give a folder"
    )


def _refused(where: str, name: str, error: Any, status: int, *, has_token: bool) -> CkdError:
    from huggingface_hub import errors

    page, repo, revision = _where(name), repository(name), name.partition("@")[2] or "main"
    other = "set HF_TOKEN to the token of an account that may read it" + (", not the present one" if has_token else "")
    refusals = {
        errors.GatedRepoError: f"{page} is gated; accept its licence on that page and {other}",
        errors.RevisionNotFoundError: f"{page} has no revision {revision}; expected a branch, a tag or a commit of it",
        errors.DisabledRepoError: f"{page} is disabled; name another model",
        errors.RepositoryNotFoundError: f"{page} is no repository; check the name, or if it is private {other}",
    }
    for kind, said in refusals.items():  # a gated repository counts as not found, too
        if isinstance(error, kind):
            return ConfigError(f"{where}, and {said}")
    if status in (408, 429) or status >= 500:
        return ModelUnreachableError(
            f"{where}, and {page} does not answer ({status}); run the same command again later"
        )
    if status in (401, 403):
        what = "refuses HF_TOKEN" if has_token else "asks for a token"
        return ConfigError(f"{where}, and {page} {what} ({status}); {other}: {page.removesuffix(repo)}settings/tokens")
    return ConfigError(f"{where}, and {page} answers {status}; check the name and HF_ENDPOINT")


def _command(name: str) -> str:
    repo, _, revision = name.partition("@")
    return f"{repo} --revision {revision}" if revision else repo
