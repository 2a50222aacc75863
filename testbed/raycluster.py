"""Ray clusters of several nodes on this machine, whose nodes can be killed, drained and added; and one that scales itself. Every cluster has
its own ports and folder, and ends by the ids of the processes it started: other Rays on the machine are left alone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported here: nodes, drivers and this process agree

CHECKOUT = Path(__file__).resolve().parents[1]
HEAD = "head"
FAKE_HEAD_ID = "f" * 51 + "00000"  # what the fake node provider expects
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


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(condition, seconds: float, what: str, pause: float = 0.1):
    """What `condition()` returns as soon as it is true; AssertionError naming `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(pause)
    return found


def end_tree(process: psutil.Process) -> None:
    """SIGKILL a process and all that it started, at once: a machine that disappears."""
    with suppress(psutil.NoSuchProcess):
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


@dataclass
class Node:
    """One `ray start --block` and the processes below it."""

    name: str
    id: str
    process: subprocess.Popen
    log: Path
    seen: list[psutil.Process] = field(default_factory=list)  # children of a killed raylet: they lose their parent

    def tree(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            self.seen += [p for p in psutil.Process(self.process.pid).children(recursive=True) if p not in self.seen]
        return [p for p in self.seen if p.is_running()]

    def raylet(self) -> psutil.Process:
        return next(p for p in self.tree() if p.name() == "raylet")

    def workers(self, title: str = "ray::") -> list[psutil.Process]:
        """Its processes whose title begins so: ray::IDLE, ray::MapWorker(…)…"""
        found = []
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                if "".join(process.cmdline()[:1]).startswith(title):
                    found.append(process)
        return found

    def vanish(self) -> None:
        """The machine disappears: SIGKILL to all its processes."""
        if self.process.poll() is None:
            self.tree()
            self.process.kill()
            self.process.wait()
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                process.kill()


class Cluster:
    """A head and nodes of its own; `address` is for RAY_ADDRESS, `environment` for a driver's or job's process."""

    def __init__(
        self,
        settings: dict[str, str] | None = None,
        dashboard: bool = False,
        scaling: dict | None = None,
        cpus: float = 1,
    ) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="ckd", dir="/tmp")
        )  # short: a socket's path has at most 107 characters
        self.port, self.dashboard_port = free_port(), free_port() if dashboard else 0
        self.nodes: dict[str, Node] = {}
        self.drivers: list[subprocess.Popen] = []
        self.count = 0
        self.settings = {**SETTINGS, **(settings or {}), "PYTHONPATH": str(CHECKOUT)}
        self.address = f"{own_ip()}:{self.port}"
        more = ["--autoscaling-config", str(self._scaling(scaling))] if scaling else []
        more += [
            "--include-dashboard",
            str(dashboard).lower(),
            *(["--dashboard-port", str(self.dashboard_port)] if dashboard else []),
        ]
        more += ["--ray-client-server-port", str(free_port()), "--dashboard-agent-listen-port", "0"]
        identity = (
            {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_ID, "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_ID} if scaling else {}
        )
        scales = (
            {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            if scaling
            else {}
        )
        self.settings |= scales
        self._start(HEAD, ["--head", f"--port={self.port}", *more], cpus, 0, {"on_demand": 1}, identity)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that is to connect."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept |= {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_TOKEN")}
        return {**kept, **self.settings, "RAY_ADDRESS": self.address}

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def head(self) -> Node:
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
        until(
            lambda: {self.nodes[n].id for n in names} <= self.alive(),
            seconds,
            f"alive: {names}, their logs are in {self.folder}",
            0.2,
        )

    def alive(self) -> set[str]:
        """The ids of the nodes that the head believes alive."""
        return {node["NodeID"] for node in self.table() if node["state"] == "ALIVE"}

    def table(self) -> list[dict]:
        """NodeID, state and resources of every node ever known."""
        from ray._raylet import GcsClient

        nodes = GcsClient(address=self.address).get_all_node_info(timeout=10)
        states = {0: "ALIVE", 1: "DEAD"}
        return [
            {"NodeID": i.hex(), "state": states[n.state], "resources": dict(n.resources_total)}
            for i, n in nodes.items()
        ]

    def drain(self, name_or_id: str, seconds: int, reason: str = "DRAIN_NODE_REASON_PREEMPTION") -> None:
        """Tell the head that the node ends in `seconds`. The node itself is left alone."""
        node_id = self.nodes[name_or_id].id if name_or_id in self.nodes else name_or_id
        words = [
            "drain-node",
            "--address",
            self.address,
            "--node-id",
            node_id,
            "--reason",
            reason,
            "--reason-message",
            "test",
        ]
        self.ray(*words, "--deadline-remaining-seconds", str(seconds))

    def ray(self, *words: str) -> str:
        """Ray's own command against this cluster; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", *words],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill_raylet(self, name: str) -> None:
        """SIGKILL only: its workers live on until they notice."""
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
        environment = {**self.environment, **more}
        words = (sys.executable, *words)
        started = subprocess.Popen(
            words, stdout=out, stderr=subprocess.STDOUT, cwd=cwd, env=environment, start_new_session=True
        )
        self.drivers.append(started)
        return started

    def end(self) -> None:
        """SIGKILL to everything that was started here, drivers included."""
        for driver in self.drivers:
            with suppress(psutil.NoSuchProcess):
                end_tree(psutil.Process(driver.pid))
            driver.wait()
        for node in reversed(list(self.nodes.values())):
            node.tree()
            with suppress(psutil.NoSuchProcess):
                end_tree(psutil.Process(node.process.pid))
            for process in node.tree():
                end_tree(process)
            node.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(
        self, name: str, words: list[str], cpus: float, gpus: int, resources: dict, identity: dict[str, str]
    ) -> Node:
        self.count += 1
        node_id = identity.get("RAY_OVERRIDE_NODE_ID_FOR_TESTING") or f"{self.count:08x}{os.urandom(24).hex()}"
        log = self.folder / f"{name}-{self.count}.log"
        own = self.folder / str(self.count)  # nodes that start together in one folder take the same socket
        words = ["--temp-dir", str(own), *words]
        words += [
            f"--num-cpus={cpus}",
            f"--num-gpus={gpus}",
            f"--object-store-memory={OBJECT_STORE}",
            f"--resources={json.dumps(resources)}",
        ]
        environment = {**self.environment, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id, **identity}
        environment.pop("RAY_ADDRESS")
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self.nodes[name] = Node(name, node_id, process, log)
        if name == HEAD:
            until(
                lambda: "--address=" in log.read_text() or process.poll() is not None,
                60,
                f"head starts, its log is {log}",
            )
            assert process.poll() is None, log.read_text()
        return self.nodes[name]

    def _scaling(self, types: dict) -> Path:
        """The autoscaler's configuration; AutoscalingCluster and fake_multinode lack a file in Ray's wheel."""
        provider = {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": self.address,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_ID,
        }
        kinds = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
        kinds |= {name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in types.items()}
        config = {
            "cluster_name": "ckd-fake",
            "provider": provider,
            "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
            "idle_timeout_minutes": 0.1,
            "upscaling_speed": 10,
            "head_node_type": "ray.head.default",
            "available_node_types": kinds,
            **{key: {} for key in ("auth", "file_mounts", "docker")},
            **{key: [] for key in ("cluster_synced_files", "initialization_commands", "setup_commands")},
            **{f"{kind}_{key}": [] for kind in ("head", "worker") for key in ("setup_commands", "start_ray_commands")},
        }
        path = self.folder / "scaling.json"
        path.write_text(json.dumps(config))
        return path


def own_ip() -> str:
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


@contextmanager
def autoscaling(types: dict[str, dict], **head) -> Iterator[Cluster]:
    """A cluster that adds and ends nodes by itself: `types` as in a cluster YAML, {"gpu": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 3}}."""
    one = Cluster(scaling=types, **head)
    try:
        yield one
    finally:
        one.end()


def stop(process: subprocess.Popen, by: int = signal.SIGKILL) -> int:
    """Send a signal to a driver's process group and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, by)
    return process.wait(timeout=60)
