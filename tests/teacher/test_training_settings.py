"""What lies beside an adapter about its training: a difference is one line that names the key to set."""

import json

import pytest
import yaml

from ckd.config import TeacherConfig
from ckd.teacher.prompt_identity import PROBES, Identity
from ckd.teacher.training_settings import FORMATS, differences
from ckd.templates import ChatTemplate
from ckd.visits.labels import INSTRUCTION
from testbed.prompt_formats import BOS, CASES, CONTENT, GEMMA, LLAMA3, QWEN, QWEN3

PROBE = f"{INSTRUCTION}\n{PROBES[1]}"
QWEN_SYSTEM = FORMATS["qwen"].default_system


def said(folder, template, settings, *, system="", arguments=None, file="training_args.yaml", max_length=1536):
    """What is said of settings beside an adapter for prompts that the template renders."""
    (folder / file).write_text(yaml.safe_dump(settings) if not isinstance(settings, str) else settings)
    rendered = ChatTemplate(template, "t", {"bos_token": BOS}, system, arguments or {}).render(PROBE)
    found = Identity("base", "", "", rendered, BOS, "")
    return list(differences(TeacherConfig(adapter=str(folder), max_length=max_length), found))


@pytest.mark.parametrize("name", CASES)
def test_the_known_formats_are_those_that_were_written_by_hand(tmp_path, name):
    case = CASES[name]
    expected = case.prompt.replace(CONTENT, PROBE)
    assert FORMATS[case.name].prompt(PROBE, BOS, case.system, thinking=case.thinking) == expected
    settings = {"template": case.name, "enable_thinking": case.thinking, "default_system": case.system or None}
    assert said(tmp_path, case.template, settings, system=case.system, arguments=case.arguments) == []


@pytest.mark.parametrize(
    ("template", "settings", "says"),
    [
        (QWEN3, {"template": "qwen"}, f'template: qwen, .*; set teacher.system="{QWEN_SYSTEM}"$'),
        (
            QWEN3,
            {"template": "qwen3", "enable_thinking": False},
            r"; set teacher\.template_arguments\.enable_thinking=false$",
        ),
        (QWEN3, {"enable_thinking": False}, r"; set teacher\.template_arguments\.enable_thinking=false$"),
        (QWEN, {"template": "qwen3"}, r"template: qwen3, .*; give the file of a template .* as teacher\.chat_template"),
        (LLAMA3, {"template": "gemma"}, r"template: gemma, .*; give the file"),
        (GEMMA, {"template": "yuan"}, r"template: yuan, whose prompts are not known here; compare .*'ckd prompt'"),
        (
            QWEN3,
            {"default_system": "SYSTEMTEXT"},
            r"default_system, which the prompts do not hold; set teacher\.system",
        ),
        (QWEN3, {"cutoff_len": 1024}, r"cutoff_len: 1024; .*longer than in training; set teacher\.max_length=1024$"),
        (QWEN3, {"cutoff_len": 2048}, r"cutoff_len: 2048; .*shorter than in training; set teacher\.max_length=2048$"),
        (QWEN3, "a: [", r"training_args\.yaml beside it is not readable YAML"),
    ],
)
def test_a_difference_is_one_line_with_the_key_to_set(tmp_path, template, settings, says):
    import re

    (line,) = said(tmp_path, template, settings)
    assert re.search(says, line) and "\n" not in line and "SYSTEMTEXT" not in line


def test_a_thought_that_the_training_had_is_asked_for(tmp_path):
    (line,) = said(tmp_path, QWEN3, {"template": "qwen3"}, arguments={"enable_thinking": False})
    assert line.endswith("set teacher.template_arguments.enable_thinking=true")


@pytest.mark.parametrize("file", ["llamaboard_config.yaml", "train_args.json", "args.json"])
def test_other_files_of_training_settings_are_read_too(tmp_path, file):
    settings = {"top.template": "qwen", "train.cutoff_len": 99}
    text = json.dumps(settings) if file.endswith("json") else settings
    lines = said(tmp_path, QWEN3, text, file=file)
    assert len(lines) == 2 and all(f"{file} beside it says" in line for line in lines)


def test_what_agrees_or_says_nothing_is_not_said(tmp_path):
    assert said(tmp_path, QWEN, {"template": "qwen", "cutoff_len": 1536, "lora_rank": 8, "learning_rate": 1e-4}) == []
    assert said(tmp_path, QWEN, "- a\n", file="other.yaml") == []
    assert said(tmp_path, QWEN, "{}", file="adapter_config.json") == []
    (tmp_path / "training_args.yaml").unlink()
    assert list(differences(TeacherConfig(adapter=""), Identity("", "", "", "", "", ""))) == []
