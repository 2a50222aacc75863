"""Which run wrote a public file: a hidden record beside it, `.NAME.run.json`; the file itself keeps its public format.

A run replaces its own files. Another run's, and a file that nobody recorded (made by hand), are refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ckd.errors import ArtifactError, ConfigError
from ckd.store.files import delete, exists, join, size_and_hash
from ckd.store.jsonfile import read_json, sealed, write_json


@dataclass(frozen=True)
class Owner:
    """A run: its name, and where its artifacts lie (absolute, or a URL)."""

    run: str
    artifacts: str

    def require(self, path: str) -> None:
        """Raise ConfigError when a public file is there that is not this run's."""
        if not exists(path):
            return
        found = _record(path)
        whose = f"belongs to run {found.get('run')!r} ({found.get('artifacts')})"
        if not found:
            whose = "is there, and no run is recorded that made it"
        if not self._made(found):
            raise ConfigError(f"{path}: {whose}; give this run run.public_files=… of its own, or move that file away")

    @contextmanager
    def writing(self, path: str) -> Iterator[None]:
        """Around what writes a public file: recorded as this run's before, and with size and SHA-256 after it.

        A kill in between leaves a file that the same run replaces. Raises as `require`.
        """
        self.require(path)
        write_json(_beside(path), {"run": self.run, "artifacts": self.artifacts})
        yield
        write_json(_beside(path), sealed({"run": self.run, "artifacts": self.artifacts, **size_and_hash(path)}))

    def remove(self, path: str) -> None:
        """Remove a public file of this run, if it is there. Raises as `require`."""
        self.require(path)
        delete(path)
        delete(_beside(path))

    def problems(self, paths: Iterable[str]) -> Iterator[str]:
        """What is wrong with the public files that are recorded as this run's. Reads every byte of them."""
        for path in paths:
            try:
                found = _record(path)
            except ArtifactError as error:
                yield str(error)
                continue
            if not self._made(found):
                continue
            again = "delete it and run the same command again"
            if not exists(path):
                yield f"{path}: missing; run the same command again"
            elif "sha256" not in found:
                yield f"{path}: was not written to its end; {again}"
            elif size_and_hash(path) != {name: found.get(name) for name in ("size", "sha256")}:
                yield f"{path}: changed since it was written; {again}"

    def _made(self, record: Mapping[str, Any]) -> bool:
        return (record.get("run"), record.get("artifacts")) == (self.run, self.artifacts)


def _beside(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return join(folder, f".{name}.run.json") if folder else f".{name}.run.json"


def _record(path: str) -> Mapping[str, Any]:
    """What is recorded of a public file; empty when nothing is."""
    try:
        found = read_json(_beside(path), f"move {path} away, delete this record, and run the same command again")
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}
