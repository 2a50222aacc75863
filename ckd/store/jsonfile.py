"""JSON files, strict in both directions: no NaN, no key twice. No error quotes the text, which may be a patient's."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from ckd.errors import ArtifactError
from ckd.store.files import digest, read_bytes, write_bytes

SEAL = "check"


class JsonError(ValueError):
    """Why a text is not strict JSON."""


def parse_json(text: bytes) -> Any:
    """The value of a JSON text. Raises JsonError: not UTF-8, broken, NaN or Infinity, a repeated key."""
    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise JsonError("not UTF-8") from None
    except JsonError:
        raise
    except (ValueError, RecursionError):
        raise JsonError("broken JSON") from None


def read_json(path: str, remedy: str) -> Any:
    """The value of a JSON file, without its seal where it has one.

    Raises FileNotFoundError, and ArtifactError ending with the `remedy` when it is not JSON or not what was sealed.
    """
    try:
        value = parse_json(read_bytes(path))
    except JsonError as error:
        raise ArtifactError(f"{path}: {error}; {remedy}") from None
    seal = value.pop(SEAL, None) if isinstance(value, dict) else None
    if seal is not None and seal != digest(value):
        raise ArtifactError(f"{path}: does not hold what was written; {remedy}")
    return value


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with the hash of itself under SEAL, which `read_json` compares. Who edits the file removes that key."""
    return {**value, SEAL: digest(json.loads(json.dumps(value)))}


def json_bytes(value: object, *, sort_keys: bool = False, ensure_ascii: bool = True) -> bytes:
    """The text of a JSON file of ours: indented by one, newline at the end. Raises ValueError for NaN and Infinity."""
    text = json.dumps(value, indent=1, allow_nan=False, sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    return (text + "\n").encode()


def write_json(path: str, value: object, *, ensure_ascii: bool = True) -> None:
    """Commit a JSON file whole. Raises ValueError for NaN and Infinity; then nothing is written."""
    write_bytes(path, json_bytes(value, ensure_ascii=ensure_ascii))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonError("JSON with a repeated key")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise JsonError("JSON with NaN or Infinity")
