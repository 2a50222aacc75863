"""Job: check whether this machine, or every machine of a cluster, is fit for a run. A line is ok, or says what to do.
A cluster is looked at from inside: the command submits itself there as a job.
"""

import os
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ckd.config import Config, absolute
from ckd.errors import ConfigError
from cluster.address import IN_A_JOB
from cluster.local import token_file
from jobs import devices, machine
from jobs.arguments import ADDRESS
from jobs.cluster_paths import require_shared
from jobs.console import Console
from jobs.ray_session import ray_session
from jobs.submit import Job, cluster_address, entrypoint, overrides, submission

FULL = 0.9  # of a disk; Ray stops storing objects at 0.95
SECONDS_TO_LOOK = 180.0
SECONDS_TO_WAKE = 600.0


@dataclass(frozen=True)
class Line:
    """A check, whether it is ok, and what was found or is to be done."""

    what: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'todo'} {self.what:<8} {self.text}"


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd doctor`."""
    address = f"{ADDRESS}; without both this machine is looked at"
    parser.add_argument("--address", default="", metavar="URL", help=address)
    wake = "wait up to 10 minutes for a worker of each kind, so that an autoscaler starts one"
    parser.add_argument("--wake", action="store_true", help=wake)


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Print the lines. Raises ConfigError unless all are ok; UnreachableError when the cluster does not answer."""
    configured, wake = bool(arguments.config or arguments.words), arguments.wake
    inside = IN_A_JOB in os.environ
    address = cluster_address(arguments.address)
    if address and not inside:
        _send(config, console, address, configured, wake)
        return
    found = []
    for line in _inside(config, configured, wake) if inside else _here(config, configured):
        console.say(str(line))
        found.append(line)
    wrong = sum(not line.ok for line in found)
    if wrong:
        raise ConfigError(f"doctor: {wrong} of {len(found)} checks want something done, see above")
    console.say(f"doctor: all {len(found)} checks ok")


def _send(config: Config, console: Console, address: str, configured: bool, wake: bool) -> None:
    token = _token_file()
    if token:
        console.say(str(token))
    config = require_shared(config) if configured and overrides(config) else Config()
    command = entrypoint("doctor", config, *(["--wake"] if wake else []))
    job = Job(submission("doctor", config), command, config.run.name, "doctor")
    job.start(console, address, "on_demand", following=True)
    if token and not token.ok:
        raise ConfigError("doctor: the cluster is well, this machine's token file is not, see above")


def _here(config: Config, configured: bool) -> Iterator[Line]:
    """The lines of this machine."""
    marks, unwritten = machine.leave_marks(_folders(config) if configured else ())
    yield from (Line("storage", False, todo) for todo in unwritten)
    try:
        found = machine.look(marks, config if configured else None)
    finally:
        machine.remove_marks(marks)
    yield Line("versions", "-" not in found["versions"].values(), _shown(found["versions"]))
    yield from _surroundings({"this machine": found})
    count = _gpus_here(config)
    yield count
    yield from _devices({"this machine": found} if count.ok else {}, config)
    yield _token_file() or Line(
        "auth", True, "no cluster named; the local Ray that stages start asks for a token and has no dashboard"
    )
    yield from _disks({"this machine": found})
    yield from _storage({"this machine": found}, marks)
    yield from _model_lines({"this machine": found})
    if not configured:
        yield Line("config", True, "none given: storage and models were not looked at (--config jobs/default.yaml)")


def _inside(config: Config, configured: bool, wake: bool) -> Iterator[Line]:
    """The lines of a cluster, seen from its own driver."""
    from cluster.survey import survey

    with ray_session():
        yield from _gpus_inside(config, wake)
        marks: dict[str, str] = {}
        if configured:
            config = absolute(require_shared(config))
            marks, unwritten = machine.leave_marks(_folders(config))
            yield from (Line("storage", False, todo) for todo in unwritten)
        try:
            nodes = survey(partial(machine.look, marks, config if configured else None, True), seconds=SECONDS_TO_LOOK)
        finally:
            machine.remove_marks(marks)
    silent = [node.name for node in nodes if node.found is None]
    if silent:
        where = f"{', '.join(silent)}: no answer in {SECONDS_TO_LOOK:.0f} s, or this code does not run there"
        yield Line("nodes", False, f"{where}; see 'ray status'")
    else:
        yield Line("nodes", True, f"{len(nodes)} are up and answer")
    answered = [node for node in nodes if node.found is not None]
    found = {f"{node.name}#{number}": node.found or {} for number, node in enumerate(answered)}
    yield _same_versions(found)
    yield from _surroundings(found)
    with_gpus = [name for node, name in zip(answered, found, strict=True) if node.resources.get("GPU")]
    yield from _devices({name: found[name] for name in with_gpus}, config)
    open_nodes = [name for name, one in found.items() if one["auth"] != "token"]
    todo = f"{', '.join(open_nodes)}: RAY_AUTH_MODE is not token; "
    todo += "set it before 'ray start' on every machine (docs/security.md)"
    yield Line("auth", not open_nodes, todo if open_nodes else "every machine asks for the token")
    yield from _disks(found)
    yield from _storage(found, marks)
    yield from _model_lines(found)


def _gpus_inside(config: Config, wake: bool) -> Iterator[Line]:
    import ray

    from cluster import survey

    wanted = sorted(
        {s.gpus_per_worker for s in (config.teacher, config.student) if s.gpus_per_worker and not s.workers.in_process}
    )
    if not wanted:
        yield Line("GPUs", True, "no stage on workers asks for one")
    for gpus in wanted:
        if wake:
            survey.wake({"CPU": 1, "GPU": gpus}, seconds=SECONDS_TO_WAKE)
        have = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= gpus]
        text = f"{len(have)} machines have the {gpus:g} that a worker asks for"
        todo = f"no machine that is up has {gpus:g}; "
        todo += "where an autoscaler starts them on demand, look with --wake, which waits for one"
        yield Line("GPUs", bool(have), text if have else todo)


def _gpus_here(config: Config) -> Line:
    wanted = max(config.teacher.gpus_per_worker, config.student.gpus_per_worker)
    if not wanted:
        return Line("GPUs", True, "no stage asks for one (teacher.gpus_per_worker, student.gpus_per_worker)")
    import torch

    have = torch.cuda.device_count()
    asks = f"the configuration asks for {wanted:g}"
    todo = f"{have} here, {asks}: set gpus_per_worker=0 for a CPU, or mend the driver (nvidia-smi)"
    return Line("GPUs", have >= wanted, f"{have}, {asks}" if have >= wanted else todo)


def _same_versions(found: Mapping[str, Mapping[str, Any]]) -> Line:
    mine = machine.versions()
    others = {
        name: {k: v for k, v in one["versions"].items() if mine.get(k) != v}
        for name, one in found.items()
        if one["versions"] != mine
    }
    if others:
        text = "; ".join(f"{name} has {_shown(differs)}" for name, differs in others.items())
        todo = "build all machines from one image (cluster/deploy/Dockerfile)"
        return Line("versions", False, f"the driver has {_shown(mine)}, but {text}: {todo}")
    return Line("versions", "-" not in mine.values(), f"{_shown(mine)} everywhere")


def _surroundings(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Line]:
    """Home, temporary folder, shared memory, open files and locale of every machine."""
    todo = [Line("machine", False, f"{name}: {text}") for name, one in found.items() for text in one["surroundings"]]
    yield from todo or [Line("machine", True, "home, temporary folder, shared memory, open files and locale will do")]


def _devices(found: Mapping[str, Mapping[str, Any]], config: Config) -> Iterator[Line]:
    """What the machines with GPUs computed, and whether they can compile where that is asked for."""
    gpus = max(config.teacher.gpus_per_worker, config.student.gpus_per_worker)
    for name, one in found.items():
        if one["devices"]:
            lacks = list(devices.lacks(one["devices"], gpus, one["need"]))
            for text in lacks or [devices.shown(one["devices"])]:
                yield Line("kernel", not lacks, f"{name}: {text}")
        if devices.compiles(config):
            yield Line("compiler", not one["compiler"], f"{name}: {one['compiler'] or 'a C compiler and Python.h'}")


def _disks(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Line]:
    full = [
        f"{name}: {folder} is {1 - free / total:.0%} full"
        for name, one in found.items()
        for folder, (free, total) in one["disks"].items()
        if total and free / total < 1 - FULL
    ]
    least = min((free for one in found.values() for free, _ in one["disks"].values()), default=0)
    todo = f"{'; '.join(full)}: give it a larger disk; Ray stops storing objects at 95 %"
    fine = f"at least {least / 1e9:,.0f} GB free where Ray and the model cache write"
    yield Line("disk", not full, todo if full else fine)


def _storage(found: Mapping[str, Mapping[str, Any]], marks: Mapping[str, str]) -> Iterator[Line]:
    for url in marks:
        reasons = {name: one["storage"][url] for name, one in found.items() if one["storage"][url]}
        folder = url.rpartition("/")[0]
        text = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        readers = "every machine" if len(found) > 1 else "this machine"
        yield Line("storage", not reasons, text or f"{folder}: written here, read by {readers}")


def _model_lines(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Line]:
    machines: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, one in found.items():
        for key, value in one["models"].items():
            machines[key][value].append(name)
    for key, values in machines.items():
        broken = [
            f"{', '.join(names)}: {value.removeprefix('!')}" for value, names in values.items() if value.startswith("!")
        ]
        if broken or len(values) > 1:
            differ = f"{key}: machines see different models under one name: {dict(values)}"
            yield Line("models", False, "; ".join(broken) or differ)
        else:
            yield Line("models", True, f"{key} is {next(iter(values))}")


def _folders(config: Config) -> Sequence[str]:
    return sorted({config.run.results, config.run.artifacts or config.run.results})


def _token_file() -> Line | None:
    """Whether only its owner can read this machine's token; None where it is not in a file."""
    path = token_file()
    if path is None:
        return None
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:
        return None
    if mode & 0o077:
        return Line("auth", False, f"{path} can be read by others on this machine (mode {mode:o}): chmod 600 {path}")
    return Line("auth", True, f"the token in {path} is its owner's")


def _shown(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number if number != '-' else 'is not installed'}" for name, number in versions.items())
