""".ci/resolve says what could not be asked, and fails where an environment's pins contradict. pip is faked."""

import os
import subprocess
import sys

import pytest

from tests.deploy.deploy_files import ROOT

CLASH = "ERROR: Cannot install a and b because these package versions have conflicting dependencies."


@pytest.mark.parametrize(
    ("said", "ends", "code", "shown"),
    [
        ("", 0, 0, "constraints-vllm.txt: .[aws,gcp,vllm] can be installed"),
        (CLASH, 1, 1, "constraints-vllm.txt: .[aws,gcp,vllm] cannot be installed: " + CLASH),
        ("Failed to establish a new connection\nERROR: No matching distribution found for x", 1, 0, "SKIPPED, nothing"),
        ("a bug of pip", 2, 0, "constraints.txt: SKIPPED, nothing was checked: a bug of pip"),
    ],
)
def test_what_cannot_be_installed_fails_and_what_was_not_asked_is_said(tmp_path, said, ends, code, shown):
    (tmp_path / "pip.py").write_text(
        f"import sys; assert '--dry-run' in sys.argv; sys.stderr.write({said!r}); sys.exit({ends})"
    )
    command, environment = [sys.executable, str(ROOT / ".ci" / "resolve")], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code and shown in done.stdout, done
