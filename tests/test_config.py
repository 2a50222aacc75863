"""Configuration: every wrong key or value is one line that names its place and the way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.config import Config
from ckd.configfile import dump, load
from ckd.errors import ConfigError
from ckd.section import Workers


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_the_shipped_configs_load_and_round_trip():
    for name in ("jobs/default.yaml", "jobs/demo.yaml"):
        config = load(name)
        assert Config.model_validate(__import__("yaml").safe_load(dump(config))) == config


def test_an_unknown_key_names_line_and_likely_meaning(tmp_path):
    path = write(tmp_path, "data:\n  train: a.json\nteacher:\n  max_lenght: 5\n")
    with pytest.raises(
        ConfigError, match=r"run\.yaml:4: unknown key 'teacher\.max_lenght'; did you mean 'teacher\.max_length'\?"
    ):
        load(path)


def test_a_wrong_value_names_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.yaml:2: student\.hard_weight: .*less than or equal to 1"):
        load(write(tmp_path, "student:\n  hard_weight: 1.5\n"))


def test_overrides_win_and_are_named_in_errors(tmp_path):
    path = write(tmp_path, "student:\n  learning_rate: 2e-5\n")
    assert load(path).student.learning_rate == 2e-5
    assert load(path, ["student.learning_rate=1e-3", "run.name=x"]).student.learning_rate == 1e-3
    with pytest.raises(
        ConfigError, match=r"override 'data\.trian=x': unknown key 'data\.trian'; did you mean 'data\.train'"
    ):
        load(path, ["data.trian=x"])
    with pytest.raises(ConfigError, match="expected key=value"):
        load(path, ["data.train"])


@pytest.mark.parametrize("text", ["data: [", "- a\n- b\n", "a: b: c\n"])
def test_a_file_that_is_not_a_configuration_is_one_line(tmp_path, text):
    with pytest.raises(ConfigError, match=r"run\.yaml:\d+: ") as error:
        load(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_missing_file_says_where_to_start():
    with pytest.raises(ConfigError, match="no such config file; start from jobs/default.yaml"):
        load("nowhere.yaml")


@given(st.integers(0, 99), st.integers(0, 99))
def test_workers_are_a_number_or_a_range(a, b):
    assert Workers.model_validate(a) == Workers(min=a, max=a)
    low, high = sorted((a, b))
    assert str(Workers.model_validate(f"{low}..{high}")) in (f"{low}..{high}", str(low))
    if low != high:
        with pytest.raises(ValueError, match="below its start"):
            Workers.model_validate(f"{high}..{low}")


def test_a_file_url_is_a_local_folder_and_a_number_is_a_name():
    run = load(None, ["run.artifacts=file:///tmp/a", "run.name=20240101"]).run
    assert (run.artifacts_root, run.name) == ("/tmp/a", "20240101")


def test_a_further_task_lies_below_its_run_and_its_public_files_with_it():
    given = ["run.results=s3://b/results", "run.name=icu"]
    own, run = load(None, given).run, load(None, [*given, "run.task=readmission"]).run
    assert (
        run.artifacts_root
        == f"{own.artifacts_root}/tasks/readmission"
        == "s3://b/results/icu/artifacts/tasks/readmission"
    )
    assert run.folder == run.public_folder == f"{own.folder}/tasks/readmission"
    assert run.public_results == f"{run.folder}/results" and own.public_results == own.results
    assert (own.lender[0], run.lender) == ("", (own.artifacts_root, "run.task=readmission"))
    assert (own.title, run.title) == ("icu", "icu/readmission")
    placed = ["run.artifacts=/fast/icu/", "run.public_files=public"]
    run = load(None, [*given, *placed, "run.task=readmission"]).run
    assert (run.artifacts_root, run.lender[0]) == ("/fast/icu/tasks/readmission", "/fast/icu/")
    assert (run.public_folder, run.public_results) == ("public/tasks/readmission", "public/tasks/readmission/results")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["run.task=../icu"],
            r"^override 'run.task=../icu': run.task: expected letters, digits, . _ - .* \(found '../icu'\)$",
        ),
        (["run.task=_x"], "run.task: expected letters"),
        (["run.name=a/b"], r"^override 'run.name=a/b': run.name: expected letters"),
        (["run.name="], "run.name: expected letters"),
        (["run.task=x", "run.embeddings=results/a/artifacts"], "task=x takes this run's own embeddings .* give one of"),
    ],
)
def test_a_name_that_is_no_folder_and_two_lenders_are_refused_in_one_line(words, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load(None, words)
    assert "\n" not in str(caught.value)


def test_sections_are_frozen_and_empty_ones_hold_defaults(tmp_path):
    config = load(write(tmp_path, "teacher:\nhead:\n"))
    assert config == Config()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


@pytest.mark.parametrize(
    "override",
    [
        "student.workers=1..9",
        "student.workers=4 student.gradient_accumulation=3",
        "student.batch_size=7 student.workers=8",
    ],
)
def test_a_batch_too_small_for_the_largest_number_of_workers_is_refused_in_one_line(override):
    with pytest.raises(ConfigError, match=r"raise batch_size to at least (8|9|12) or lower the others") as caught:
        load(None, ["student.batch_size=8", *override.split()])
    assert "\n" not in str(caught.value)
    assert (
        load(
            None, ["student.batch_size=8", "student.workers=0..3", "student.gradient_accumulation=2"]
        ).student.workers.max
        == 3
    )


@pytest.mark.parametrize("text", ["You are X: be brief # really", "1.10", "a: b", "{x}", "- y", "null", "true"])
def test_a_text_key_takes_what_was_typed(text):
    assert load(None, [f"teacher.system={text}"]).teacher.system == text
    assert load(None, [f'teacher.system="{text}"', "run.name='7'"]).teacher.system == text


def test_template_arguments_are_scalars_from_yaml_and_from_the_command_line(tmp_path):
    path = write(tmp_path, "teacher:\n  template_arguments: {enable_thinking: false, day: 2024-07-26, n: 3, x: 0.5}\n")
    given = {"enable_thinking": False, "day": "2024-07-26", "n": 3, "x": 0.5}
    assert load(path).teacher.template_arguments == given
    assert [type(value) for value in load(path).teacher.template_arguments.values()] == [bool, str, int, float]
    overrides = [
        "teacher.template_arguments.date_string=26 Jul 2024",
        "teacher.template_arguments.enable_thinking=true",
    ]
    changed = {**given, "date_string": "26 Jul 2024", "enable_thinking": True}
    assert load(path, overrides).teacher.template_arguments == changed
    whole = load(None, ["teacher.template_arguments={enable_thinking: false, none: null}"])
    assert whole.teacher.template_arguments == {"enable_thinking": False, "none": None}
    assert load(None, ["teacher.template_arguments="]).teacher.template_arguments == {}
    written = write(tmp_path, dump(load(path, overrides)))
    assert load(written).teacher.template_arguments == changed


@pytest.mark.parametrize("value", ["[1]", "x", "{a: [1]}", "{a: {b: 1}}", "{a: .nan}", "{a: .inf}"])
def test_template_arguments_that_are_no_scalars_are_one_line(value):
    with pytest.raises(ConfigError, match=r"teacher\.template_arguments: .*expected") as error:
        load(None, [f"teacher.template_arguments={value}"])
    assert "\n" not in str(error.value)
