"""A pool of threads that an interrupted command leaves at once: the standard one finishes all that is queued first."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose work is done at the block's end. After an error what waits is dropped, what runs is waited for.

    After Ctrl-C or SIGTERM neither: a shard on a GPU takes a minute, and nothing is written to a final name.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
