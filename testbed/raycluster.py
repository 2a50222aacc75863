"""Ray clusters of several nodes on this machine, which can be killed, drained and added; and one that scales itself.

Every cluster has its own ports and folder, and ends by the ids of the processes that it started: other Rays on the
machine are left alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from testbed import scaling as autoscaler
from testbed.hosts import Hosts
from testbed.ports import free_port
from testbed.raynode import Node, end_tree

os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported here: nodes, drivers and this process agree

CHECKOUT = Path(__file__).resolve().parents[1]
HEAD = "head"
OBJECT_STORE = 100 << 20
SETTINGS = {  # a dead node is noticed within 3 s, not 30
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # and a dead head by its driver, not 60
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
RAY = (sys.executable, "-m", "ray.scripts.scripts")


def until(condition, seconds: float, what: str, pause: float = 0.1):
    """What `condition()` returns as soon as it is true; AssertionError naming `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(pause)
    return found


class Cluster:
    """A head and nodes of its own; `address` is for RAY_ADDRESS, `environment` for a driver's or job's process."""

    def __init__(
        self,
        settings: dict[str, str] | None = None,
        dashboard: bool = False,
        scaling: dict | None = None,
        cpus: float = 1,
        hosts: Hosts | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ckd", dir="/tmp"))  # short: a socket's path has 107 characters
        self.port, self.dashboard_port = free_port(), free_port() if dashboard else 0
        self.nodes: dict[str, Node] = {}
        self.drivers: list[subprocess.Popen] = []
        self.count = 0
        self.settings = {**SETTINGS, **(settings or {}), "PYTHONPATH": str(CHECKOUT)}
        self.hosts = hosts  # where every node, by its name, is a machine with an address of its own
        self.address = f"{hosts.addresses[HEAD] if hosts else own_ip()}:{self.port}"
        words = ["--head", f"--port={self.port}", f"--include-dashboard={str(dashboard).lower()}"]
        words += [f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"]
        if dashboard:
            words.append(f"--dashboard-port={self.dashboard_port}")
        if scaling:
            path = self.folder / "scaling.json"
            path.write_text(json.dumps(autoscaler.configuration(scaling, self.address)))
            words.append(f"--autoscaling-config={path}")
            self.settings |= autoscaler.SETTINGS
        self._start(HEAD, words, cpus, 0, {"on_demand": 1}, autoscaler.IDENTITY if scaling else {})

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that is to connect."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept |= {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_TOKEN")}
        return {**kept, **self.settings, "RAY_ADDRESS": self.address}

    @property
    def dashboard(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def head(self) -> Node:
        """The node that the others connect to."""
        return self.nodes[HEAD]

    def add(
        self, name: str, *, cpus: float = 1, gpus: int = 0, resources: dict | None = None, wait: bool = True
    ) -> Node:
        """A node with these (fake) GPUs; its resources hold its name and `spot`."""
        have = {name: 1, "spot": 1, **(resources or {})}
        node = self._start(name, [f"--address={self.address}", "--dashboard-agent-listen-port=0"], cpus, gpus, have, {})
        if wait:
            self.wait(name)
        return node

    def wait(self, *names: str, seconds: float = 60) -> None:
        """Until these nodes are alive."""
        wanted, what = {self.nodes[n].id for n in names}, f"alive: {names}, their logs are in {self.folder}"
        until(lambda: wanted <= self.alive(), seconds, what, 0.2)

    def alive(self) -> set[str]:
        """The ids of the nodes that the head believes alive."""
        return {node["NodeID"] for node in self.table() if node["state"] == "ALIVE"}

    def table(self) -> list[dict]:
        """NodeID, state and resources of every node ever known."""
        from ray._raylet import GcsClient

        nodes, states = GcsClient(address=self.address).get_all_node_info(timeout=10), {0: "ALIVE", 1: "DEAD"}
        return [
            {"NodeID": i.hex(), "state": states[n.state], "resources": dict(n.resources_total)}
            for i, n in nodes.items()
        ]

    def drain(self, name_or_id: str, seconds: int, reason: str = "DRAIN_NODE_REASON_PREEMPTION") -> None:
        """Announce to the head that the node ends in `seconds`. The node itself is left alone."""
        node_id = self.nodes[name_or_id].id if name_or_id in self.nodes else name_or_id
        words = [f"--address={self.address}", f"--node-id={node_id}", f"--reason={reason}", "--reason-message=test"]
        self.ray("drain-node", *words, f"--deadline-remaining-seconds={seconds}")

    def ray(self, *words: str) -> str:
        """Run Ray's own command against this cluster; what it printed."""
        done = subprocess.run([*RAY, *words], capture_output=True, text=True, env=self.environment, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill_raylet(self, name: str) -> None:
        """SIGKILL only to the raylet: its workers live on until they notice."""
        self.nodes[name].raylet().kill()

    def vanish(self, name: str) -> None:
        """SIGKILL to everything of a node at once."""
        self.nodes[name].vanish()

    def raylets(self) -> dict[str, psutil.Process]:
        """Node id to raylet of every node below the head that the autoscaler started."""
        found = {}
        for process in self.head.tree():
            with suppress(psutil.NoSuchProcess):
                if process.name() == "raylet":
                    found[next(w.split("=")[1] for w in process.cmdline() if w.startswith("--node_id="))] = process
        return {node_id: process for node_id, process in found.items() if node_id != self.head.id}

    def driver(
        self, *words: str, cwd: str | Path | None = None, log: Path | None = None, **more: str
    ) -> subprocess.Popen:
        """A process connected to this cluster, python and `words`; its output in `log`. It ends with the cluster."""
        out = (log or self.folder / f"driver-{time.time_ns()}.log").open("a")
        where = {"stdout": out, "stderr": subprocess.STDOUT, "cwd": cwd, "env": {**self.environment, **more}}
        place = self.hosts.inside(HEAD) if self.hosts else []
        started = subprocess.Popen((*place, sys.executable, *words), start_new_session=True, **where)
        self.drivers.append(started)
        return started

    def end(self) -> None:
        """SIGKILL to everything that was started here, drivers included."""
        for driver in self.drivers:
            with suppress(psutil.NoSuchProcess):
                end_tree(psutil.Process(driver.pid))
            driver.wait()
        for node in reversed(list(self.nodes.values())):
            node.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(
        self, name: str, words: list[str], cpus: float, gpus: int, resources: dict, identity: dict[str, str]
    ) -> Node:
        self.count += 1
        node_id = identity.get("RAY_OVERRIDE_NODE_ID_FOR_TESTING") or f"{self.count:08x}{os.urandom(24).hex()}"
        log = self.folder / f"{name}-{self.count}.log"
        own = self.folder / str(self.count)  # nodes that start together in one folder take the same socket
        words = ["start", "--block", "--disable-usage-stats", f"--temp-dir={own}", *words]
        words += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={OBJECT_STORE}"]
        words.append(f"--resources={json.dumps(resources)}")
        environment = {**self.environment, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id, **identity}
        environment.pop("RAY_ADDRESS")
        where = {"stdout": log.open("w"), "stderr": subprocess.STDOUT, "env": environment}
        place = []
        if self.hosts:
            place = self.hosts.inside(name)
            words.append(f"--node-ip-address={self.hosts.addresses[name]}")
        process = subprocess.Popen([*place, *RAY, *words], start_new_session=True, **where)
        self.nodes[name] = Node(name, node_id, process, log)
        if name == HEAD:
            until(lambda: "--address=" in log.read_text() or process.poll() is not None, 60, f"head starts: {log}")
            assert process.poll() is None, log.read_text()
        return self.nodes[name]


def own_ip() -> str:
    """This machine's address, as Ray finds it."""
    from ray._private.services import get_node_ip_address

    return get_node_ip_address()


@contextmanager
def cluster(nodes: dict[str, dict] | None = None, **head) -> Iterator[Cluster]:
    """A head and `nodes` (name to the arguments of Cluster.add), started beside each other."""
    one = Cluster(**head)
    try:
        for name, has in (nodes or {}).items():
            one.add(name, wait=False, **has)
        if nodes:
            one.wait(*nodes)
        yield one
    finally:
        one.end()


def stop(process: subprocess.Popen, by: int = signal.SIGKILL) -> int:
    """Send a signal to a driver's process group and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, by)
    return process.wait(timeout=60)
