"""The command line: help, wrong words, exit codes, errors of one line, and no heavy import before it is needed."""

import subprocess
import sys

import pytest

from ckd.configfile import dump, load
from ckd.errors import UnreachableError
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


def named(folder):
    """Overrides that name an input and two models; only what a look from outside sees of them is there."""
    rows = write_jsonl(folder / "rows.json", [row(1)])
    for name in ("teacher", "student"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    models = [f"{name}.base_model={folder / name}" for name in ("teacher", "student")]
    return [f"data.train={rows}", *models, f"run.results={folder}/results"]


def test_a_dry_run_prints_the_resolved_config_and_the_plan_and_starts_nothing(tmp_path):
    words = named(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = ckd("run", "--dry-run", *words, "teacher.workers=0..3", "teacher.gpus_per_worker=1")
    assert code == 0
    assert "workers: 0..3" in out
    assert f"to do: read {tmp_path}/rows.json" in out
    assert "0..3 Ray workers, 1 GPU each" in out
    assert out.endswith("[]\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.train=/nowhere/rows.json", "/nowhere/rows.json: no such file or folder"),
        ("data.held_out=nowhere.parquet", "nowhere.parquet: no such file or folder"),
        ("task.labels=nowhere.yaml", "task.labels=nowhere.yaml: no such file"),
        ("teacher.base_model=/nowhere/qwen", "teacher.base_model=/nowhere/qwen: "),
        ("teacher.adapter=/nowhere/lora", "teacher.adapter=/nowhere/lora: no adapter_config.json there"),
        ("student.base_model=./bert", "student.base_model=./bert: "),
    ],
)
@pytest.mark.parametrize("command", [["run", "--dry-run"], ["embed", "--dry-run"], ["status"]])
def test_a_missing_input_or_model_ends_a_dry_run_and_status_with_2(tmp_path, capsys, command, word, said):
    words = named(tmp_path)
    assert main([*command, *words]) == 0
    capsys.readouterr()
    assert main([*command, *words, word]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1
    assert "visits       to do" in printed.out


def test_what_a_hub_that_does_not_answer_may_have_is_no_missing_model(tmp_path, capsys, monkeypatch):
    def unreachable(key, name, file):
        raise UnreachableError(f"{key}={name}: the Hub does not answer")

    monkeypatch.setattr("ckd.store.models.readable", unreachable)
    assert main(["status", *named(tmp_path), "teacher.base_model=org/model"]) == 0
    assert "not looked at  teacher.base_model=org/model: the Hub does not answer" in capsys.readouterr().out


def test_a_run_that_reads_nothing_more_asks_for_no_model(tmp_path, capsys):
    assert main(["status", f"run.results={tmp_path}"]) == 0
    assert main(["run", "--dry-run", f"run.results={tmp_path}"]) == 0


def test_validate_writes_nothing(tmp_path):
    path = write_jsonl(tmp_path / "rows.json", [row(1)])
    code, out, _ = ckd("validate", path, f"run.results={tmp_path}/results", f"run.public_files={tmp_path}")
    assert code == 0
    assert "read 1 = kept 1" in out
    assert [found.name for found in tmp_path.iterdir()] == ["rows.json"]


def test_overrides_may_stand_behind_options(capsys, tmp_path):
    assert main(["demo", "--dry-run", "seed=7", "--config", "jobs/demo.yaml", f"run.results={tmp_path}"]) == 0
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
