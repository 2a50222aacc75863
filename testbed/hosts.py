"""Machines with an address of their own on this one: network namespaces on a bridge, whose cables can be pulled."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

COUNT = 250  # hosts and networks that the addresses 10.99.x.y have room for


def refused() -> str:
    """Why this machine makes no network namespaces; "" where it does."""
    if not shutil.which("ip"):
        return "there is no `ip` command"
    done = subprocess.run(["unshare", "--net", "ip", "link", "add", "x", "type", "bridge"], capture_output=True)
    return done.stderr.decode().strip() if done.returncode else ""


class Hosts:
    """The hosts of one network. This process is in it too, at `address`, and so is a store that it serves."""

    def __init__(self, *names: str) -> None:
        self.id = os.getpid() % COUNT
        self.bridge, self.address = f"ckd{self.id}", f"10.99.{self.id}.254"
        self.addresses = {name: f"10.99.{self.id}.{n}" for n, name in enumerate(names, 1)}
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for name in names:
            self._plug_in(name)

    def inside(self, name: str) -> list[str]:
        """What stands before a command that is to run on a host."""
        return ["ip", "netns", "exec", self._space(name)]

    def cut(self, name: str) -> None:
        """Pull a host's cable: what it sends and what is sent to it is lost without a word."""
        ip("link", "set", self._cable(name), "nomaster")

    def heal(self, name: str) -> None:
        """Plug it in again."""
        ip("link", "set", self._cable(name), "master", self.bridge)

    def hide(self, name: str, address: str) -> None:
        """Let one host no longer reach one address."""
        ip("-n", self._space(name), "route", "add", "blackhole", f"{address}/32")

    def show(self, name: str, address: str) -> None:
        """Let it be reached again."""
        ip("-n", self._space(name), "route", "del", "blackhole", f"{address}/32")

    def end(self) -> None:
        """Remove what was made; the processes in it have ended."""
        for name in self.addresses:
            subprocess.run(["ip", "netns", "del", self._space(name)], check=False)
        ip("link", "del", self.bridge)

    def _plug_in(self, name: str) -> None:
        space, cable = self._space(name), self._cable(name)
        ip("netns", "add", space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", cable, "master", self.bridge)
        ip("link", "set", cable, "up")
        ip("-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", space, "link", "set", device, "up")
        ip("-n", space, "route", "add", "default", "via", self.address)  # by which Ray finds its own address

    def _space(self, name: str) -> str:
        return f"{self.bridge}-{name}"

    def _cable(self, name: str) -> str:
        return f"{self.bridge}v{list(self.addresses).index(name)}"


def ip(*words: str) -> None:
    """Run `ip`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """A network of these hosts."""
    one = Hosts(*names)
    try:
        yield one
    finally:
        one.end()
