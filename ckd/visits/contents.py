"""What a file really holds, by its first bytes: a name says it too, and the two must agree."""

from ckd.errors import DataError
from ckd.store.files import open_file

_MAGIC = {  # first bytes -> what the file is, and the ending that says so
    b"\x1f\x8b": ("gzip", ".json.gz"),
    b"PAR1": ("Parquet", ".parquet"),
    b"PK\x03\x04": ("a zip archive", ""),
    b"\x28\xb5\x2f\xfd": ("zstd", ""),
    b"BZh": ("bzip2", ""),
    b"\xfd7zXZ\x00": ("xz", ""),
    b"\xff\xfe": ("UTF-16 text", ""),
    b"\xfe\xff": ("UTF-16 text", ""),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", ""),
}
_NAMED = {".gz": "gzip", ".parquet": "Parquet"}


def require_named(path: str) -> None:
    """Raise DataError for a file that is something else than its name says, with the name or the step that mends it."""
    with open_file(path) as stream:
        head = stream.read(32)
    inside, ending = next((found for magic, found in _MAGIC.items() if head.startswith(magic)), ("text", ".json"))
    named = next((kind for suffix, kind in _NAMED.items() if path.lower().endswith(suffix)), "text")
    if not head or inside == named:
        return
    if inside.startswith("a Git LFS"):
        remedy = "fetch it with 'git lfs pull'"
    elif ending:
        remedy = f"rename it to end in {ending}"
    else:
        remedy = "unpack it, or write it as UTF-8, and give JSONL (.json, .json.gz) or Parquet"
    what = "JSONL" if named == "text" else named
    raise DataError(f"{path}: its name says {what}, but it is {inside}; {remedy}")
