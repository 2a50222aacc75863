"""What must never travel, stand in the repository, or be unpickled. Who may talk to a cluster: test_token."""

import ast
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
CODE = ("ckd", "cluster", "jobs")
STAY_AT_HOME = (
    "data/name_train.json",
    "data/cohort/part-00000.parquet",
    "lora/model/adapter_model.safetensors",
    "results/run/artifacts/visits/part-00000.parquet",
    "results/run/events.jsonl",
    ".venv/lib/site.py",
    ".venv-vllm/lib/site.py",
    "venv/lib/site.py",
    ".env",
    ".git/config",
    "auth_token",
    "jobs/auth_token",
    "jobs/.env",
    "cluster/deploy/key.pem",
    "ckd/visits.jsonl",
    "jobs/cohort.parquet",
    "visits.json",
    "notes/patients.csv",
)


def seen_by_git():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=CHECKOUT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (CHECKOUT / name).is_file()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of this checkout in which a user has worked: with visits, weights, results, environments and a token."""
    root = tmp_path_factory.mktemp("checkout")
    for name in [*seen_by_git(), *STAY_AT_HOME]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name in STAY_AT_HOME:
            (root / name).write_text("a patient")
        else:
            shutil.copy(CHECKOUT / name, root / name)
    return root


def package(root, target, *, gitignore):
    """Names in the zip that Ray makes of a working_dir, for `ckd submit` and `ray job submit --working-dir .`."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(root), target, include_gitignore=gitignore)  # without Ray's own .git,.venv,venv
    with zipfile.ZipFile(target) as zipped:
        return {info.filename: info.file_size for info in zipped.infolist() if not info.is_dir()}


@pytest.mark.parametrize("gitignore", [True, False])
def test_a_job_takes_code_and_configurations_along_and_nothing_else(checkout, tmp_path, gitignore):
    names = package(checkout, tmp_path / "_ray_pkg.zip", gitignore=gitignore)
    assert not set(STAY_AT_HOME) & set(names)
    assert {name.split("/")[0] for name in names} <= {*CODE, "pyproject.toml", "ray_cluster.yaml"}
    assert not [name for name in names if "README" in name and name.startswith(("data", "lora", "results"))]
    needed = {name for name in seen_by_git() if name.startswith(tuple(f"{folder}/" for folder in CODE))}
    assert needed <= set(names)
    assert sum(names.values()) < 10e6


def test_either_ignore_file_alone_keeps_data_weights_results_and_environments_at_home(checkout, tmp_path):
    folders = ("data/name", "data/cohort", "lora/", "results/", ".venv")
    alone = tmp_path / "alone"
    shutil.copytree(checkout, alone)
    (alone / ".rayignore").unlink()
    assert not [
        name
        for name in package(alone, tmp_path / "git.zip", gitignore=True)
        if name.startswith(folders) and not name.endswith("README.md")
    ]
    (alone / ".gitignore").unlink()
    assert set(STAY_AT_HOME) & set(package(alone, tmp_path / "none.zip", gitignore=True)), (
        "the test sees what would travel"
    )


SECRETS = [
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY",
        r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
        r"\b(ghp|gho|ghs|github_pat|glpat|hf|xox[abp])[_-][A-Za-z0-9_]{20,}",
        r"\bAIza[0-9A-Za-z_-]{35}\b",
        r"\bsk-[A-Za-z0-9_-]{20,}",
        r"(?i)(password|passwd|secret|token|api_?key)\w*[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+/_-]{24,}[\"']?\s*$",
        r"(?i)\bauthorization:\s*bearer\s+[A-Za-z0-9._-]{16,}",
        r"://[^/\s:@{}<>]+:(?!secret@)[^/\s@{}<>$]{6,}@",
    )
]


def secrets(text):
    return [line for line in text.splitlines() if any(pattern.search(line) for pattern in SECRETS)]


def test_no_file_that_git_sees_holds_a_secret():
    found = {}
    for name in seen_by_git():
        text = (CHECKOUT / name).read_text(encoding="utf-8", errors="replace")
        if lines := secrets(text):
            found[name] = lines
        assert not re.search(r"(^|/)(\.env(\..*)?|auth_token|id_rsa|.*\.(pem|key|p12|kdbx))$", name), name
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "AK" + "IA" + "Q" * 16,
        "h" + "f_" + "a1" * 15,
        "RAY_AUTH_TOKEN=" + "0f" * 32,
        "-----BEGIN " + "PRIVATE KEY",
        "s3://me:" + "hunter22@x",
    ],
)
def test_a_secret_would_be_found(line):
    assert secrets(f"first\n  {line}\nlast")


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "np.load",
    "numpy.load",
    "pd.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
    "os.system",
}


def unsafe(source):
    """Where Python code could run what a file says: line numbers and calls."""
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [(node.lineno, module) for module in modules if module.split(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in FORBIDDEN_CALLS or (name.endswith("torch.load") and given.get("weights_only") != "True"):
            found.append((node.lineno, name))
        found += [
            (node.lineno, f"{name}({word}=…)")
            for word in ("trust_remote_code", "allow_pickle")
            if given.get(word, "False") != "False"
        ]
        if given.get("shell", "False") != "False":
            found.append((node.lineno, f"{name}(shell=…)"))
    return found


def test_nothing_that_is_read_can_bring_code_along():
    """The one exception, DeepSpeed's checkpoints that this run wrote, is read inside DeepSpeed and transformers."""
    found = {
        str(path.relative_to(CHECKOUT)): unsafe(path.read_text())
        for folder in CODE
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
    }
    assert not {name: calls for name, calls in found.items() if calls}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "subprocess.run(x, shell=True)",
        "yaml.load(x)",
    ],
)
def test_code_that_would_unpickle_is_found(line):
    assert unsafe(line)
    assert not unsafe("torch.load(path, weights_only=True); yaml.safe_load(x)")


def test_a_dashboard_that_we_start_listens_on_loopback_only():
    """Kubernetes is another matter: there the pod's network is the boundary (docs/security.md)."""
    hosts = {}
    for name in seen_by_git():
        if name.startswith((*CODE, "ray_cluster")) and name.endswith((".py", ".yaml")) and "kuberay" not in name:
            found = re.findall(r"dashboard[-_]host[\"']?[\s=:]+[\"']?([\w.]+)", (CHECKOUT / name).read_text())
            hosts.update(dict.fromkeys(found, name))
            assert "include_dashboard=True" not in (CHECKOUT / name).read_text(), name
    assert set(hosts) <= {"127.0.0.1", "localhost"}, hosts
