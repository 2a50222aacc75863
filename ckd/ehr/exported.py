"""Which files of a folder `ckd export jsonl` wrote: these alone it may replace or remove. `export.json` lists them."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from ckd.errors import ArtifactError, ConfigError
from ckd.store.files import exists, join, size_and_hash
from ckd.store.jsonfile import read_json, write_json

MANIFEST, FORMAT = "export.json", "ckd export jsonl"
_ELSE = "give another --out, or move it away"
Facts = Mapping[str, Any]  # size, sha256


class OwnFiles:
    """The files in `out` by name, each with what it may hold: while new ones appear, the old content or the new.

    Raises ConfigError when `out` has an export.json of somebody else.
    """

    def __init__(self, out: str) -> None:
        self._out, self._known = out, _listed(out)

    def owns(self, name: str) -> bool:
        """Whether a file is there and holds what was written. Costs reading it."""
        path, known = join(self._out, name), self._known.get(name, [])
        return bool(known) and exists(path) and size_and_hash(path) in known

    def require(self, names: Iterable[str]) -> None:
        """Raise ConfigError naming the first of these files that is there and is not ours."""
        for name in names:
            path = join(self._out, name)
            if exists(path) and not self.owns(name):
                raise ConfigError(f"{path}: is not what '{FORMAT}' wrote there; {_ELSE}")

    def announce(self, files: Mapping[str, Facts]) -> None:
        """Before these contents appear: a kill between two files leaves none that would be taken for another's."""
        for name, facts in files.items():
            self._known[name] = [*self._known.get(name, []), facts]
        self._write()

    def settle(self, files: Mapping[str, Facts]) -> None:
        """When all are there: they alone are known."""
        self._known = {name: [facts] for name, facts in files.items()}
        self._write()

    def _write(self) -> None:
        files = {name: self._known[name] for name in sorted(self._known)}
        write_json(join(self._out, MANIFEST), {"format": FORMAT, "files": files})


class Hashed:
    """A binary stream that knows size and SHA-256 of what went through it."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._sha, self._size = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Pass it on."""
        self._sha.update(data)
        self._size += len(data)
        self._stream.write(data)

    @property
    def facts(self) -> Facts:
        """As size_and_hash finds them in the file."""
        return {"size": self._size, "sha256": self._sha.hexdigest()}


def _listed(out: str) -> dict[str, list[Facts]]:
    path = join(out, MANIFEST)
    try:
        content = read_json(path, _ELSE)
        if content["format"] == FORMAT:
            return {name: list(known) for name, known in content["files"].items()}
    except FileNotFoundError:
        return {}
    except (ArtifactError, LookupError, TypeError, AttributeError):
        pass
    raise ConfigError(f"{path}: is not what '{FORMAT}' wrote there; {_ELSE}")
