"""Names the file when reading one of ours fails for what is in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from ckd.errors import ArtifactError


@contextmanager
def damage_named(path: str, remedy: str) -> Iterator[None]:
    """Turn what readers raise at a damaged file into an ArtifactError with its path and the remedy.

    A missing file stays FileNotFoundError. An error with an errno is the machine's or the disk's, not the content's,
    and stays as it is.
    """
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, MemoryError, OverflowError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        what = f"damaged, or not one of this project's ({type(error).__name__})"
        raise ArtifactError(f"{path}: {what}; {remedy}") from None
