"""One node of a Ray cluster on this machine: its processes, found by their ids, and their ends."""

import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass
class Node:
    """One `ray start --block` and the processes below it."""

    name: str
    id: str
    process: subprocess.Popen
    log: Path
    seen: list[psutil.Process] = field(default_factory=list)  # children of a killed raylet lose their parent

    def tree(self) -> list[psutil.Process]:
        """Its processes that run, orphans among them."""
        with suppress(psutil.NoSuchProcess):
            self.seen += [p for p in psutil.Process(self.process.pid).children(recursive=True) if p not in self.seen]
        return [p for p in self.seen if p.is_running()]

    def raylet(self) -> psutil.Process:
        """The process that makes it a node."""
        return next(p for p in self.tree() if p.name() == "raylet")

    def workers(self, title: str = "ray::") -> list[psutil.Process]:
        """Its processes whose title starts so: ray::IDLE, ray::MapWorker(…)…"""
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

    def end(self) -> None:
        """SIGKILL to its processes and all that they started."""
        self.tree()
        with suppress(psutil.NoSuchProcess):
            end_tree(psutil.Process(self.process.pid))
        for process in self.tree():
            end_tree(process)
        self.process.wait()


def end_tree(process: psutil.Process) -> None:
    """SIGKILL a process and all that it started, at once: a machine that disappears."""
    with suppress(psutil.NoSuchProcess):
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
