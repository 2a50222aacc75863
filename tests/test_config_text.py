"""What is typed for a key of type text is its value, on the command line and in YAML; a number is as it looks."""

import itertools

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ckd.config import Config, TaskConfig
from ckd.configfile import dump, load
from ckd.errors import ConfigError
from ckd.section import place
from ckd.visits.taskfile import load_task
from jobs.cli import main
from jobs.submit import overrides

NAMES = ("1.10", "2024_11_28", "007", "0x10", "1e3", "2024-11-28", "yes", "null", "true", "585", "1.0")
TEXTS = (*NAMES, "12:30:45", "=", ".inf")


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("text", NAMES)
def test_a_runs_name_is_what_was_typed_so_that_two_runs_share_no_folder(tmp_path, text):
    assert load(written(tmp_path, f"run:\n  name: {text}\n")).run.folder == f"results/{text}"
    assert load(None, [f"run.name={text}"]).run.folder == f"results/{text}"


@pytest.mark.parametrize("text", TEXTS)
def test_texts_in_lists_and_mappings_are_what_was_typed_too(tmp_path, text):
    for listed in (f"[{text}, B]", f"\n    - {text}\n    - B"):
        found = load(written(tmp_path, f"ingest:\n  split_column: site\n  tuning_values: {listed}\n"))
        assert found.ingest.tuning_values == (text, "B")
    given = ["ingest.split_column=site", f"ingest.held_out_values=[{text}, 02]", f"ingest.sex_words={{{text}: F}}"]
    found = load(None, given).ingest
    assert (found.held_out_values, found.sex_words) == ((text, "02"), {text: "F"})


def test_a_file_name_with_a_hash_is_not_cut():
    assert load(None, ["data.train=visits.jsonl #2.jsonl"]).data.train == "visits.jsonl #2.jsonl"
    assert load(None, ["data.train='a' #2.jsonl"]).data.train == "'a' #2.jsonl"
    assert load(None, ["data.train='visits #2.jsonl'"]).data.train == "visits #2.jsonl"


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1).filter(
        lambda t: t[0] not in "'\"~"
    )
)
def test_any_text_typed_comes_back_from_a_job_and_from_the_saved_configuration(text):
    config = load(None, [f"teacher.system={text}", f"data.train=x{text}", "run.name=007"])
    assert (config.teacher.system, config.data.train, config.run.name) == (text, f"x{text}", "007")
    assert load(None, overrides(config)) == config
    assert Config.model_validate(yaml.safe_load(dump(config))) == config


def test_nothing_typed_is_the_empty_text_and_a_tilde_alone_is_refused(tmp_path):
    assert load(written(tmp_path, "data:\n  tuning:\nteacher:\n")).data.tuning == ""
    with pytest.raises(ConfigError, match=r"run\.yaml:2: ~ alone is no value here; write '' for none"):
        load(written(tmp_path, "data:\n  tuning: ~\n"))


def test_numbers_are_read_as_before_and_those_that_look_otherwise_are_refused(tmp_path):
    found = load(None, ["student.learning_rate=1e-4", "data.shard_rows=1_000", "head.l2=.5", "student.dropout=null"])
    assert (found.student.learning_rate, found.data.shard_rows, found.head.l2) == (1e-4, 1000, 0.5)
    assert found.student.dropout is None
    assert load(written(tmp_path, "run:\n  file_mode: 0640\n")).run.file_mode == "0640"
    for value in ("0042", "1:30", "12:30:45", "010"):
        message = f"seed: '{value}': .*write it without leading zeros and colons"
        with pytest.raises(ConfigError, match=rf"run\.yaml:1: {message.removeprefix('seed: ')}"):
            load(written(tmp_path, f"seed: {value}\n"))
        with pytest.raises(ConfigError, match="override 'seed="):
            load(None, [f"seed={value}"])
    for override in ("seed=yes", "student.epochs=true", "student.learning_rate=.inf", "student.workers=1:30"):
        with pytest.raises(ConfigError, match=f"override '{override}'"):
            load(None, [override])


def test_a_templates_argument_is_a_number_only_where_it_looks_like_one(tmp_path):
    arguments = "{a: 007, b: 12:30:45, c: 2024_11_28, d: 3, e: 0.5, f: no, g: '1', h: 2024-13-45, 01: 1_0}"
    read = load(written(tmp_path, f"teacher:\n  template_arguments: {arguments}\n")).teacher.template_arguments
    assert read == load(None, [f"teacher.template_arguments={arguments}"]).teacher.template_arguments
    values = ["007", "12:30:45", "2024_11_28", 3, 0.5, False, "1", "2024-13-45", "1_0"]
    assert list(read.items()) == list(zip([*"abcdefgh", "01"], values, strict=True))
    assert load(None, ["teacher.template_arguments.a=007"]).teacher.template_arguments == {"a": "007"}


def test_a_key_that_stands_twice_is_refused_and_merged_ones_are_taken(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.yaml:3: key 'train' stands twice; remove one"):
        load(written(tmp_path, "data:\n  train: a\n  train: b\n"))
    merged = load(written(tmp_path, "teacher: &t {workers: 2, max_length: 9}\nstudent: {<<: *t, max_length: 10}\n"))
    assert (str(merged.student.workers), merged.student.max_length, merged.teacher.max_length) == ("2", 10, 9)


def test_codes_of_a_task_are_what_was_typed(tmp_path):
    path = tmp_path / "labels.yaml"
    path.write_text("name: 007\nlabels:\n  - {name: 585, icd9: [012, 250.10, 585]}\n  - {name: yes, icd10: [E11]}\n")
    task = load_task(TaskConfig(labels=str(path)))
    assert (task.name, task.names, task.labels[0].icd9) == ("007", ("585", "yes"), ("012", "250.10", "585"))


def test_a_home_folder_is_put_in_wherever_a_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = [
        *(f"run.{key}" for key in ("artifacts", "embeddings", "results", "public_files")),
        *(f"data.{key}" for key in ("train", "tuning", "held_out")),
        *("teacher.base_model", "teacher.adapter", "teacher.chat_template", "student.base_model", "task.labels"),
        *("ingest.code_map", "ingest.meds_codes"),
    ]
    for key, home in itertools.product(keys, ("~", "file://~")):
        section, name = key.split(".")
        expected = f"{tmp_path}/x"
        assert getattr(getattr(load(None, [f"{key}={home}/x"]), section), name) == expected
        assert (
            getattr(getattr(load(written(tmp_path, f"{section}: {{{name}: '{home}/x'}}")), section), name) == expected
        )
    assert load(None, ["run.shared_mounts=[~/a, /b]"]).run.shared_mounts == (f"{tmp_path}/a", "/b")
    assert load(None, ["teacher.system=~/x"]).teacher.system == "~/x"
    assert place("~root/x") == "/root/x"
    with pytest.raises(
        ConfigError, match=r"data\.train=~nobody9/x': data\.train: no home folder is known for ~nobody9"
    ):
        load(None, ["data.train=~nobody9/x"])


def test_a_tasks_code_list_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "codes.csv").write_text("code,version\n012,9\n")
    path = written(tmp_path, "name: t\nlabels:\n  - {name: a, codes: ~/codes.csv}\n  - {name: b, icd9: [1]}\n")
    assert load_task(TaskConfig(labels=path)).labels[0].codes == (("012", "9"),)


@pytest.mark.parametrize("word", ["--config=~/run.yaml", "~/run.yaml"])
def test_the_home_folder_is_put_in_behind_an_option_too(tmp_path, monkeypatch, capsys, word):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "run: {name: 007, results: ~/results}\n")
    words = [word] if "=" in word else ["--config", word]
    assert main(["status", *words]) == 0
    assert f"artifacts    {tmp_path}/results/007/artifacts" in capsys.readouterr().out
    assert main(["status", "--config=~nobody9/run.yaml"]) == 2
    assert "no home folder is known for ~nobody9" in capsys.readouterr().err
