"""results/<run>/config.yaml: the resolved configuration of a run, with which its stages are looked at later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ckd.config import Config
from ckd.configfile import dump, load
from ckd.errors import CkdError
from ckd.store.files import delete, exists, join, read_bytes, write_bytes
from ckd.store.filesystems import is_local

FILE = "config.yaml"
_INPUTS = ("train", "tuning", "held_out")


@contextmanager
def saving(config: Config) -> Iterator[None]:
    """Save the configuration of the stages that run inside: at once where none is there, else at their end.

    One that is refused (exit code 2) is not kept; what a run has made before is of the former one.
    """
    path = join(config.run.folder, FILE)
    before, now = _read(path), dump(config).encode()
    if before is None:
        write_bytes(path, now)
    try:
        yield
    except CkdError as error:
        if error.exit_code != CkdError.exit_code:
            _replace(path, before, now)
        elif before is None:
            delete(path)
            with suppress(OSError):  # of a folder that was there already, with other files
                if is_local(path):
                    Path(config.run.folder).rmdir()
        raise
    except KeyboardInterrupt:
        _replace(path, before, now)
        raise
    _replace(path, before, now)


def _replace(path: str, before: bytes | None, now: bytes) -> None:
    if before not in (None, now):
        write_bytes(path, now)


def load_saved(overrides: Sequence[str]) -> tuple[Config, str]:
    """The configuration that the run of these overrides has saved, with the overrides; and a line that says so.

    Inputs that are gone since are left out: the prepared visits are there. Without a saved one, the overrides alone and
    "". Raises as `load`.
    """
    alone = load(None, overrides)
    path = join(alone.run.folder, FILE)
    text = _read(path)
    if text is None:
        return alone, ""
    config, said = load(path, overrides, text.decode()), f"settings of {path}"
    inputs = [getattr(config.data, name) for name in _INPUTS]
    if all(exists(given) for given in inputs if given):
        return config, said
    gone = load(path, [*overrides, *(f"data.{name}=" for name in _INPUTS)], text.decode())
    return gone, f"{said}, without its inputs: not all of them are there any more"


def _read(path: str) -> bytes | None:
    with suppress(FileNotFoundError):
        return read_bytes(path)
    return None
