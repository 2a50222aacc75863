"""Watches on a spot machine for the cloud's notice and drains its Ray node with the real deadline.

Ray itself does not. Run beside every worker node: `python -m cluster.preemption [--cloud aws|gcp|none] [--grace
SECONDS]`. SIGTERM (Kubernetes ends a pod) is a notice of `--grace` seconds. A drained node gets no new shard, and a
training group takes a checkpoint. It costs one small request every 5 s on AWS, a waiting one on GCP.
"""

import argparse
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from types import FrameType
from typing import Protocol
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from ray._raylet import GcsClient  # type: ignore[attr-defined]  # as `ray drain-node`: draining has no public name
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import RaySystemError, RpcError
from ray.util import get_node_ip_address

SECONDS_BETWEEN_LOOKS = 5.0  # what AWS recommends; its notice comes two minutes before the end
SECONDS_BETWEEN_TRIES = 1.0  # to reach the head, once there is a notice
SECONDS_TO_ANSWER = 2.0  # the metadata server is on the machine's own host
SECONDS_OF_WAITING = 60  # GCP answers a waiting request at the latest then
GCP_SECONDS = 30.0  # between GCP's notice, which has no time of its own, and the end
TOKEN_SECONDS = 21600  # how long AWS lets a session token live

log = logging.getLogger("preemption")
_DIRECT = build_opener(ProxyHandler({}))  # a metadata server is never behind a proxy


class NoAnswerError(Exception):
    """The metadata server did not answer, or not as this cloud's does."""


class TerminatedError(BaseException):
    """SIGTERM came; not an Exception, so that no library swallows it."""


@dataclass(frozen=True)
class Notice:
    """That this machine ends."""

    text: str  # who says so
    deadline: float  # seconds since 1970


class Cloud(Protocol):
    """A source of notices."""

    @property
    def pause(self) -> float:
        """Seconds between two looks."""

    def look(self) -> Notice | None:
        """The notice, if there is one. May wait for it. Raises NoAnswerError."""


class Aws:
    """EC2's instance metadata, version 2. Rebalance recommendations are no notice: most of them end nothing."""

    pause = SECONDS_BETWEEN_LOOKS

    def __init__(self, url: str = "") -> None:
        """Without a URL that of the environment, else AWS's own."""
        self.url = url or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
        self.token, self.renew_at = "", 0.0

    def look(self) -> Notice | None:
        """The notice of spot/instance-action; 404 until the end is decided."""
        if time.monotonic() >= self.renew_at:
            self.renew()
        url = f"{self.url}/latest/meta-data/spot/instance-action"
        status, body, _ = _ask(url, {"X-aws-ec2-metadata-token": self.token})
        if status == 404:
            return None
        if status == 401:  # the token is no longer good
            self.renew_at = 0.0
        if status != 200:
            raise NoAnswerError(f"spot/instance-action: HTTP {status}")
        return _aws_notice(body)

    def renew(self) -> None:
        """Fetch a session token."""
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        status, self.token, _ = _ask(f"{self.url}/latest/api/token", headers, method="PUT")
        if status != 200:
            raise NoAnswerError(f"no session token: HTTP {status}")
        self.renew_at = time.monotonic() + TOKEN_SECONDS / 2


class Gcp:
    """Compute Engine's metadata: the request waits on the server until the value changes."""

    pause = 0.5  # the server waits

    def __init__(self, url: str = "", wait: int = SECONDS_OF_WAITING) -> None:
        """Without a URL that of the environment, else Google's own."""
        host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        self.url, self.wait, self.etag = url or f"http://{host}", wait, ""

    def look(self) -> Notice | None:
        """The first request answers at once, later ones when the machine is preempted or the wait is over."""
        waiting = f"?wait_for_change=true&timeout_sec={self.wait}&last_etag={self.etag}" if self.etag else ""
        url = f"{self.url}/computeMetadata/v1/instance/preempted{waiting}"
        seconds = SECONDS_TO_ANSWER + self.wait * bool(waiting)
        status, body, headers = _ask(url, {"Metadata-Flavor": "Google"}, seconds=seconds)
        if status != 200 or headers.get("metadata-flavor") != "Google":
            self.etag = ""
            raise NoAnswerError(f"instance/preempted: HTTP {status}")
        self.etag = headers.get("etag", "")
        preempted = body.strip().upper() == "TRUE"
        return Notice("GCP preempts this machine", time.time() + GCP_SECONDS) if preempted else None


def _ask(
    url: str, headers: dict[str, str], method: str = "GET", seconds: float = SECONDS_TO_ANSWER
) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers (names in lower case). Raises NoAnswerError when there is no HTTP answer."""
    try:
        with _DIRECT.open(Request(url, headers=headers, method=method), timeout=seconds) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, answer.read().decode(), found
    except HTTPError as error:
        return error.code, "", {}
    except (OSError, HTTPException, ValueError) as error:
        raise NoAnswerError(f"{url}: {type(error).__name__}") from error


def _aws_notice(body: str) -> Notice:
    try:
        found = json.loads(body)
        deadline = datetime.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        return Notice(f"AWS: {found['action']}", deadline.timestamp())
    except (ValueError, KeyError, TypeError):  # it is a notice all the same
        return Notice("AWS: a notice without a time", time.time() + GCP_SECONDS)


CLOUDS: dict[str, Callable[[], Cloud]] = {"aws": Aws, "gcp": Gcp}


def find_cloud() -> Cloud | None:
    """The cloud whose metadata server answers; None where there is none, as in most pods."""
    for name, make in CLOUDS.items():
        cloud = make()
        try:
            if isinstance(cloud, Aws):
                cloud.renew()
            elif cloud.look():
                return make()  # a new one gives the notice again
        except NoAnswerError as error:
            log.info("not on %s (%s)", name, error)
        else:
            return cloud
    return None


def wait_for_notice(cloud: Cloud | None, grace: float) -> Notice:
    """Return when the cloud gives notice or SIGTERM comes, `grace` seconds before the end."""
    failing = False
    try:
        while True:
            try:
                notice = cloud.look() if cloud else None
                if notice:
                    return notice
                if failing:
                    log.info("the metadata server answers again")
                failing = False
            except NoAnswerError as error:
                if not failing:
                    log.warning("no answer, trying on: %s", error)
                failing = True
            time.sleep(cloud.pause if cloud and not failing else SECONDS_BETWEEN_LOOKS)
    except TerminatedError:
        return Notice("SIGTERM", time.time() + grace)


def drain(address: str, node_id: str, notice: Notice) -> list[str]:
    """Drain node `node_id`, or ("") every Ray node at this machine's address but the head. Returns their ids.

    Raises OSError, RpcError or RaySystemError when the head cannot be reached.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), SECONDS_TO_ANSWER):
        pass  # Ray's client would try for longer than a spot machine has
    gcs = GcsClient(address=address)
    here = get_node_ip_address()
    nodes = gcs.get_all_node_info(timeout=5).items()
    alive = {node.hex(): info for node, info in nodes if info.state == GcsNodeInfo.ALIVE}
    mine = [node for node, info in alive.items() if info.node_manager_address == here and not info.is_head_node]
    found = [node_id] if node_id else mine
    deadline = max(notice.deadline, time.time() + 1)
    for node in found:
        accepted, why = gcs.drain_node(node, DRAIN_NODE_REASON_PREEMPTION, notice.text, int(deadline * 1000), timeout=5)
        if accepted:
            log.info("node %s is drained, %.0f s before its end", node, deadline - time.time())
        else:
            log.warning("node %s is not drained: %s", node, why)
    return found


def act(address: str, node_id: str, notice: Notice) -> bool:
    """Drain as soon as the head answers; False when it did not before the machine's end."""
    ends = datetime.fromtimestamp(notice.deadline, UTC).strftime("%H:%M:%S UTC")
    left = notice.deadline - time.time()
    log.info("notice (%s): %s ends at %s, in %.0f s", notice.text, socket.gethostname(), ends, left)
    warned = False
    while True:
        try:
            if drain(address, node_id, notice):
                return True
            why = "no Ray node of this machine is known to the head"
        except (OSError, RpcError, RaySystemError) as error:
            why = f"the head at {address} does not answer ({type(error).__name__})"
        if not warned:
            log.warning("%s, trying until the end", why)
        warned = True
        if time.time() >= notice.deadline:
            return False
        time.sleep(SECONDS_BETWEEN_TRIES)


def main(argv: Sequence[str]) -> int:
    """Wait for a notice and drain. Exit code 0 when the node was drained, 1 when it could not be: start this again."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s preemption: %(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        choices: dict[str, Callable[[], Cloud | None]] = {**CLOUDS, "auto": find_cloud, "none": lambda: None}
        cloud = choices[arguments.cloud]()
        log.info("watching %s and SIGTERM", type(cloud).__name__.lower() if cloud else "no cloud")
        notice = wait_for_notice(cloud, arguments.grace)
    except TerminatedError:
        notice = Notice("SIGTERM", time.time() + arguments.grace)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the drain is under way: a second one changes nothing
    return 0 if act(arguments.address, arguments.node_id, notice) else 1


def _terminated(number: int, frame: FrameType | None) -> None:
    raise TerminatedError


def _parser() -> argparse.ArgumentParser:
    does = "Drain this machine's Ray node when its cloud takes it away."
    parser = argparse.ArgumentParser(prog="python -m cluster.preemption", description=does)
    text = "whose metadata server to ask (auto: the one that answers)"
    parser.add_argument("--cloud", choices=["auto", *CLOUDS, "none"], default="auto", help=text)
    text = "seconds between SIGTERM and the end (default %(default)g)"
    parser.add_argument("--grace", type=float, default=GCP_SECONDS, metavar="S", help=text)
    head = os.environ.get("RAY_ADDRESS", "127.0.0.1:6379")
    parser.add_argument("--address", default=head, help="the head, host:port (default RAY_ADDRESS)")
    text = "the Ray node to drain (default: all at this machine's address, but never the head)"
    parser.add_argument("--node-id", default="", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
