"""Jobs on a Ray cluster: submit one or attach to the one that runs, follow its log, say how it ended."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.address import (
    SECONDS_TO_ANSWER,
    RefusedError,
    UnreachableClusterError,
    WrongAddressError,
    require_head,
    require_listener,
)

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ON_DEMAND = "on_demand"  # custom resource of machines that nobody takes away: the head, on-demand groups
SECONDS_LOST = 120.0  # how long `follow` keeps trying a cluster that stopped answering
_API = "RAY_API_SERVER_ADDRESS"  # the only way past RAY_ADDRESS, which Ray's client prefers to its own argument


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: str  # as Ray names it
    exit_code: int | None  # the driver's; None: it never ran, or its machine is gone
    message: str  # the first line of Ray's


@dataclass(frozen=True)
class Submitted:
    """A job of the cluster."""

    id: str
    attached: bool  # it was there before
    status: str  # as Ray names it
    resource: str  # keeps its driver on a machine that stays; empty: none does


def connect(address: str) -> "JobSubmissionClient":
    """A client of the cluster at `address`: its dashboard's http:// URL, or host:port for a machine inside its network.

    Raises WrongAddressError, UnreachableClusterError; RefusedError when the token is missing or wrong, or when the
    cluster asks for none and this client has not set RAY_AUTH_MODE=disabled.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which reads it once
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    _require_cluster(address)
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in (
        "ray",
        JobSubmissionClient.__module__,
        SubmissionClient.__module__,
    ):  # the last two set their own level
        logging.getLogger(name).setLevel(logging.ERROR)
    with _our_errors(), _as_api_server(address):
        try:
            client = JobSubmissionClient()
        except AuthenticationError as error:
            raise RefusedError(_first_line(error)) from None
    if authentication(client.get_address()) == "disabled" and os.environ["RAY_AUTH_MODE"] != "disabled":
        raise RefusedError("it takes jobs from everybody who reaches it: token authentication is off there")
    return client


def authentication(dashboard: str) -> str:
    """How the cluster with this dashboard authenticates: "token", "disabled", or "" when it does not say."""
    import requests

    try:
        answer = requests.get(f"{dashboard.rstrip('/')}/api/authentication_mode", timeout=SECONDS_TO_ANSWER)
        return str(answer.json()["authentication_mode"])
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return ""


def submit(
    client: "JobSubmissionClient",
    name: str,
    entrypoint: str,
    *,
    working_dir: str,
    metadata: Mapping[str, str],
    resource: str,
) -> Submitted:
    """Run `entrypoint` in a copy of `working_dir` as job `name`, or attach to the newest that has not ended.

    A name whose jobs have all ended gets the next free suffix: name, name-2, name-3… The driver reserves a bit of the
    custom resource `resource` where a node offers it; else Ray puts it on the head. Raises UnreachableClusterError or
    RefusedError.
    """
    with _our_errors():
        where = resource if resource and _offers(client, resource) else ""
        while True:
            newest, status = _newest(client, name)
            if newest and status in ("PENDING", "RUNNING"):
                return Submitted(_numbered(name, newest), True, status, "")
            attempt = _numbered(name, newest + 1)
            try:
                client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=attempt,
                    runtime_env={"working_dir": working_dir},
                    metadata=dict(metadata),
                    entrypoint_resources={where: 0.001} if where else None,
                )
            except RuntimeError as error:
                if "already exists" in str(error):  # another client was quicker
                    continue
                raise
            return Submitted(attempt, False, "PENDING", where)


def running(client: "JobSubmissionClient", metadata: Mapping[str, str]) -> list[str]:
    """Ids of the jobs that have not ended and were submitted with this metadata."""
    with _our_errors():
        jobs = [job for job in client.list_jobs() if not job.status.is_terminal()]
    return sorted(job.submission_id or "" for job in jobs if metadata.items() <= (job.metadata or {}).items())


def follow(client: "JobSubmissionClient", job: str, write: Callable[[str], object]) -> Outcome:
    """Write the job's log as it grows, from its start, until the job ends.

    A lost connection is taken up again where it broke. Raises UnreachableClusterError when the cluster has not answered
    for SECONDS_LOST.
    """
    log, lost = _Log(write), 0.0
    while True:
        asyncio.run(_stream(client, job, log))
        try:
            with _our_errors():
                details = client.get_job_info(job)
                if details.status.is_terminal():
                    _write_rest(client, job, log)
                    return _outcome(details)
            lost = 0.0
        except UnreachableClusterError:
            lost = lost or time.monotonic()
            if time.monotonic() - lost > SECONDS_LOST:
                raise
        time.sleep(1)


class _Log:
    """Writes what it has not written before of a text that is sent from its start again and again."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Nothing is written yet."""
        self.write, self.written, self.position = write, 0, 0

    def restart(self) -> None:
        """The text comes from its start again."""
        self.position = 0

    def take(self, text: str) -> None:
        """Write what is new in the next piece of the text."""
        self.position += len(text)
        if self.position > self.written:
            self.write(text[-(self.position - self.written) :])
            self.written = self.position


async def _stream(client: "JobSubmissionClient", job: str, log: _Log) -> None:
    """Write the log until its stream ends, for whatever reason: the job's status says whether it has ended."""
    import aiohttp

    log.restart()
    try:
        async for text in client.tail_job_logs(job):
            log.take(text)
    except (aiohttp.ClientError, RuntimeError, OSError, TimeoutError):
        return


def _write_rest(client: "JobSubmissionClient", job: str, log: _Log) -> None:
    try:
        text = client.get_job_logs(job)
    except RuntimeError:  # the machine that has it is gone
        return
    log.restart()
    log.take(text or "")


def _outcome(details: "JobDetails") -> Outcome:
    return Outcome(str(details.status), details.driver_exit_code, (details.message or "").strip().partition("\n")[0])


def _newest(client: "JobSubmissionClient", name: str) -> tuple[int, str]:
    """Number (0: none) and status of the newest job of this name; one that has not ended counts as newer."""
    pattern, found = re.compile(rf"{re.escape(name)}(?:-(\d+))?"), {}
    for job in client.list_jobs():
        if match := pattern.fullmatch(job.submission_id or ""):
            found[int(match[1] or 1)] = job.status
    alive = {number: status for number, status in found.items() if not status.is_terminal()}
    number = max(alive or found, default=0)
    return number, str(found.get(number, ""))


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _offers(client: "JobSubmissionClient", resource: str) -> bool:
    from ray.util.state import list_nodes

    with _as_api_server(client.get_address()):
        nodes: list[Any] = list_nodes(filters=[("state", "=", "ALIVE")], detail=True, raise_on_missing_output=False)
    return any(resource in (node.resources_total or {}) for node in nodes)


def _require_cluster(address: str) -> None:
    """Raises WrongAddressError or UnreachableClusterError, over which Ray's client would wait long or trip."""
    require_listener(address)
    if "://" not in address and address != "auto":
        if authentication(f"http://{address}"):
            raise WrongAddressError(f"a dashboard answers there; expected its URL, http://{address}")
        require_head(address)


@contextmanager
def _as_api_server(address: str) -> Iterator[None]:
    """Ray's clients talk to `address` inside the block."""
    before = os.environ.get(_API)
    os.environ[_API] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_API]
        else:
            os.environ[_API] = before


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turn Ray's and requests' errors into those of this module."""
    import requests
    from ray.exceptions import AuthenticationError
    from ray.util.state.exception import RayStateApiException

    try:
        yield
    except AuthenticationError as error:
        raise RefusedError(_first_line(error)) from None
    except (requests.RequestException, ConnectionError, RayStateApiException, TimeoutError) as error:
        raise UnreachableClusterError(type(error).__name__) from None
    except RuntimeError as error:
        if not str(error).startswith("Request failed"):  # what Ray's client makes of an HTTP status
            raise
        raise UnreachableClusterError(_first_line(error)) from None


def _first_line(error: BaseException) -> str:
    """Its first sentence: Ray's errors go on for paragraphs."""
    return str(error).strip().partition("\n")[0].partition(". ")[0]
