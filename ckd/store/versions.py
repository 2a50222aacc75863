"""Versions of the libraries that values depend on, read from the installed packages' metadata: nothing is imported."""

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version


def versions(libraries: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each library, None for one that is not installed here under that name."""
    return {name: _version(name) for name in sorted(libraries)}


@lru_cache
def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
