"""The command line: help, wrong words, exit codes, errors of one line, and no heavy import before it is needed."""

import subprocess
import sys

import pytest

from ckd.configfile import dump, load
from jobs.cli import main
from jobs.commands import COMMANDS
from testbed.rows import row, write_jsonl

HEAVY = ("torch", "transformers", "peft", "deepspeed", "sklearn", "ray")


def ckd(*words):
    script = (
        f"import sys; from jobs.cli import main; code = main({list(words)!r}); "
        f"print([m for m in {HEAVY!r} if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "teacher.max_lenght=5"], "did you mean 'teacher.max_length'?"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["run", "data.train=/nowhere/train.json"], "/nowhere/train.json"),
        (["embed", "train.json"], "'train.json': expected key=value"),
        (["train-head", "run.results=/nowhere"], "no visits have been prepared there"),
    ],
)
def test_a_user_error_is_one_line_exit_2_without_a_heavy_import(words, message):
    code, out, err = ckd(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out.endswith("[]\n")


def test_help_lists_every_command_and_the_exit_codes():
    done = subprocess.run([sys.executable, "-m", "jobs.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert "3 incomplete" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_as_a_module_too_with_the_same_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    done = subprocess.run([sys.executable, "-m", "jobs", name, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == capsys.readouterr().out


def test_a_dry_run_prints_the_resolved_config_and_the_plan_and_starts_nothing(tmp_path):
    code, out, _ = ckd(
        "run",
        "--dry-run",
        f"run.results={tmp_path}",
        "data.train=a.json",
        "teacher.workers=0..3",
        "teacher.gpus_per_worker=1",
    )
    assert code == 0
    assert "workers: 0..3" in out
    assert "to do: read a.json" in out
    assert "0..3 Ray workers, 1 GPU each" in out
    assert out.endswith("[]\n")
    assert not list(tmp_path.iterdir())


def test_validate_writes_nothing(tmp_path):
    path = write_jsonl(tmp_path / "rows.json", [row(1)])
    code, out, _ = ckd("validate", path, f"run.results={tmp_path}/results", f"run.public_files={tmp_path}")
    assert code == 0
    assert "read 1 = kept 1" in out
    assert [found.name for found in tmp_path.iterdir()] == ["rows.json"]


def test_overrides_may_stand_behind_options(capsys, tmp_path):
    assert main(["run", "--dry-run", "seed=7", "--config", "jobs/demo.yaml", f"run.results={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "seed: 7" in out
    assert str(tmp_path) in out


def test_a_command_that_takes_no_override_refuses_one(capsys):
    with pytest.raises(SystemExit):
        main(["synth", "--patients", "1", "--out", "x", "seed=3"])
    assert "unrecognized" in capsys.readouterr().err


def test_the_adapters_share_may_be_given_as_a_flag_of_run(capsys, tmp_path):
    assert main(["run", "--dry-run", "--adapter-share", ".5", f"run.results={tmp_path}"]) == 0
    assert "adapter_share: 0.5" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", "--dry-run", "--adapter-share", "50"])
    assert "a share between 0 and 1" in capsys.readouterr().err


SECRETS = (
    f"s3://AKIAKEY:{'hunter2'}@bucket/x",  # in pieces: what looks for secrets in this repository must find none
    f"s3://AKIAKEY:{'hun/ter2'}@bucket/x",
    f"gs://user:{'hunter2'}@bucket",
    "s3://bucket/x?access_key=AKIAKEY&secret_key=hunter2",
)


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize(
    "words",
    [
        ["run", "--dry-run", "run.results={}"],
        ["run", "run.artifacts={}", "data.train=x.json"],
        ["submit", "run", "--dry-run", "run.results=s3://b/r", "data.train={}"],
        ["submit", "run", "--dry-run", "--config", "{yaml}"],
        ["embed", "teacher.base_model={}"],
        ["predict", "{}", "--model", "m", "--out", "o"],
        ["predict", "in.json", "--model", "{}", "--out", "o"],
        ["ingest", "mimic3", "{}", "--out", "o"],
        ["export", "model", "--out={}"],
        ["validate", "{}"],
        ["run", "{}"],
        ["nothing", "{}"],
    ],
)
def test_credentials_in_a_url_are_refused_in_one_line_and_shown_nowhere(words, url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"run:\n  results: '{url}'\n")
    assert main([word.replace("{yaml}", "c.yaml").replace("{}", url) for word in words]) == 2
    out, err = capsys.readouterr()
    assert "hunter2" not in out + err and "hun/ter2" not in out + err and "AKIAKEY" not in out + err
    assert err.count("\n") == 1 and "credentials in the environment" in err
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_what_only_looks_like_credentials_is_taken():
    for word in ("teacher.adapter=org/name@v1", "data.train=s3://bucket/a@b:c/x", "run.artifacts=s3://bucket/a@2"):
        assert word.partition("=")[2] in dump(load(None, [word]))
