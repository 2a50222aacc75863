""".ci/audit says what pip-audit's registry did not answer about; a known vulnerability fails it. pip-audit is faked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[1] / ".ci" / "audit"
SOUND = {"name": "torch", "version": "2.13.0", "vulns": []}
UNKNOWN = {"name": "ray", "skip_reason": "Dependency not found on PyPI and could not be audited: ray (2.60.0)"}
BROKEN = {"name": "aiohttp", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (json.dumps({"dependencies": [SOUND]}), 0, "1 of 1 pins checked, 0 with known vulnerabilities"),
        (json.dumps({"dependencies": [SOUND, UNKNOWN]}), 0, "SKIPPED 1 of 2 pins (Dependency not found on PyPI"),
        (json.dumps({"dependencies": [SOUND, BROKEN]}), 1, "aiohttp 1.0: PYSEC-1, fixed in 1.1"),
        ("", 0, "SKIPPED, nothing was checked"),
    ],
)
def test_what_was_not_checked_is_said_and_what_is_broken_fails(tmp_path, answer, code, says):
    (tmp_path / "pip_audit.py").write_text(f"print({answer!r})")
    done = subprocess.run(
        [sys.executable, str(AUDIT)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == code, done
    assert says in done.stdout
