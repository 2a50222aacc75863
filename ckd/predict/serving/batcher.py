"""Requests that arrive together go through the model together: one bounded queue, one model thread."""

import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
WINDOW_S = 0.005  # how long the first request of a batch waits for company
BATCH_TEXTS = 64  # texts after which a batch waits no longer
BATCH_CHARACTERS = 65_536  # about one forward pass of the scorer's TOKEN_BUDGET, at four characters a token


class BusyError(Exception):
    """The queue is full, or the server is about to stop."""


class ModelFailedError(Exception):
    """The model raised on this request's texts. Names the error's type and place; the message may quote a text."""


@dataclass(frozen=True)
class Job:
    """One request's texts, and where its answers go."""

    texts: Sequence[str]
    answers: "Future[list[Any]]"


class Batcher:
    """Calls `score(texts)`, one answer per text in order, in a thread of its own, then `observe(texts of the batch)`.

    A request's texts stay in one batch. A request that makes `score` raise fails by itself: its neighbours are scored
    again without it. One that is cancelled before its batch starts makes room at once, costs the model nothing and is
    told to `dropped(its texts)`.
    """

    def __init__(
        self,
        score: Callable[[list[str]], Sequence[Any]],
        observe: Callable[[int], None] = lambda _: None,
        waiting: int = 2048,
        dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.score, self.observe, self.dropped, self.most_waiting = score, observe, dropped, waiting
        self.waiting = 0  # texts in the queue
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock, self._open = threading.Lock(), True
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[str]) -> "Future[list[Any]]":
        """Queue some texts: a future of one answer per text, or of ModelFailedError. Raises BusyError."""
        job = Job(texts, Future())
        with self._lock:
            if not self._open or self.waiting + len(texts) > self.most_waiting:
                raise BusyError
            self.waiting += len(texts)
            job.answers.add_done_callback(lambda answers: self._drop(len(texts)) if answers.cancelled() else None)
            self._queue.put(job)
        return job.answers

    def _drop(self, texts: int) -> None:
        self._leave(texts)
        self.dropped(texts)

    def _leave(self, texts: int) -> None:
        with self._lock:
            self.waiting -= texts

    def alive(self) -> bool:
        """Whether requests are taken and answered."""
        return self._open and self._thread.is_alive()

    def close(self) -> None:
        """Take no more requests, answer those that are here, end the thread."""
        with self._lock:
            self._open = False
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            jobs, ended = self._gather()
            if jobs:
                self._answer(jobs)

    def _gather(self) -> tuple[list[Job], bool]:
        """The next batch, and whether it is the last."""
        first = self._queue.get()
        jobs, ended, until = deque[Job](), first is None, time.monotonic() + WINDOW_S
        one = first
        while one is not None:
            if one.answers.set_running_or_notify_cancel():
                jobs.append(one)
                self._leave(len(one.texts))
            if _full(jobs):
                break
            try:
                one = self._queue.get(timeout=max(until - time.monotonic(), 0))
                ended = one is None
            except queue.Empty:
                break
        return [*jobs], ended

    def _answer(self, jobs: list[Job]) -> None:
        texts = [text for job in jobs for text in job.texts]
        try:
            answers = self.score(texts)
            if len(answers) != len(texts):
                raise RuntimeError("the model gave another number of answers than it got texts")
        except Exception as error:  # noqa: BLE001 - what a model raises fails one request, never the thread
            if len(jobs) == 1:
                log.error("%s", without_message(error))
                jobs[0].answers.set_exception(ModelFailedError(without_message(error)))
                return
            for job in jobs:
                self._answer([job])
            return
        self.observe(len(texts))
        start = 0
        for job in jobs:
            job.answers.set_result([*answers[start : start + len(job.texts)]])
            start += len(job.texts)


def without_message(error: BaseException) -> str:
    """An error's type and where it was raised; never its message, which may quote a text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _full(jobs: Sequence[Job]) -> bool:
    texts = [text for job in jobs for text in job.texts]
    return len(texts) >= BATCH_TEXTS or sum(map(len, texts)) >= BATCH_CHARACTERS
