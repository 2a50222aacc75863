"""The deploy files as tests read them, and checks that several tests share."""

import copy
import shlex
from pathlib import Path

import click
import yaml
from packaging.utils import canonicalize_name
from ray.scripts.scripts import start

from ckd.configfile import load
from cluster.preemption import _parser as watch_parser

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
CLUSTERS = {"aws": ROOT / "ray_cluster.yaml", "gcp": DEPLOY / "gcp.yaml"}
TEXTS = [*CLUSTERS.values(), *DEPLOY.glob("*.yaml"), *DEPLOY.glob("*.json"), DEPLOY / "Dockerfile"]


def read_pins(path):
    """Normal name to version."""
    lines = (line.partition("==") for line in path.read_text().splitlines() if "==" in line and line[0] != "#")
    return {canonicalize_name(name): version for name, _, version in lines}


PINS = read_pins(ROOT / "constraints.txt")


def read(path):
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def changed(value, path, to):
    """A copy of nested dicts and lists with one place set (to=None: taken out)."""
    value = node = copy.deepcopy(value)
    *way, last = path
    for key in way:
        node = node[key]
    if to is None:
        del node[last]
    else:
        node[last] = to
    return value


def parsed_start(words):
    """What Ray's own command line makes of the words behind `ray start`. Raises AssertionError with Ray's complaint."""
    try:
        return start.make_context("ray start", list(words)).params
    except click.ClickException as error:
        raise AssertionError(error.format_message()) from None


def parsed_watch(words):
    """What the watcher's own command line makes of its words. Raises AssertionError when it refuses them."""
    try:
        return watch_parser().parse_args(words)
    except SystemExit:
        raise AssertionError(f"cluster.preemption refuses {words}") from None


def ray_start(command):
    """The `ray start` inside a shell command, parsed; None when there is none."""
    _, found, words = command.partition("ray start ")
    return parsed_start(shlex.split(words.partition(";")[0])) if found else None


def fits_a_worker(gpus):
    """Whether machines of `gpus` GPUs hold whole workers of jobs/default.yaml, teacher and student."""
    config = load(str(ROOT / "jobs" / "default.yaml"))
    wanted = (config.teacher.gpus_per_worker, config.student.gpus_per_worker)
    return all(each > 0 and gpus >= each and gpus % each == 0 for each in wanted)
