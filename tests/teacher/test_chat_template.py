"""Which chat template is taken: said where the adapter brings another, refused in one line where it is not there."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.prompts import Prompter
from ckd.teacher.chat_template import adapter_template, choose, load_prompter

OTHER = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "


@pytest.fixture
def teacher(tmp_path, teacher_folder):
    """A configuration of the tiny teacher with an adapter folder of its own, and the base's tokenizer."""
    shutil.copytree(f"{teacher_folder}/adapter", tmp_path / "adapter")
    config = TeacherConfig(base_model=f"{teacher_folder}/base", adapter=str(tmp_path / "adapter"))
    return config, AutoTokenizer.from_pretrained(f"{teacher_folder}/base")


def as_file(folder, text):
    (folder / "chat_template.jinja").write_text(text)


def as_key(folder, text):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))


def as_one_of_several(folder, text):
    several = [{"name": "rag", "template": "{{ documents }}"}, {"name": "default", "template": text}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))


@pytest.mark.parametrize("save", [as_file, as_key, as_one_of_several])
def test_an_adapters_own_template_is_taken_and_said(tmp_path, teacher, save):
    config, tokenizer = teacher
    save(tmp_path / "adapter", OTHER)
    chosen = choose(config, tokenizer)
    assert (chosen.source, chosen.template.text) == ("adapter", OTHER)
    assert "the adapter's is taken (teacher.chat_template=base takes the other)" in chosen.note
    (prompt,), _ = load_prompter(config, tokenizer).encode(["Name."], ["Sepsis"])
    assert tokenizer.decode(prompt) == "[user] Name.\nSepsis\n[assistant] "
    base = choose(config.model_copy(update={"chat_template": "base"}), tokenizer)
    assert (base.source, base.template.text) == ("base", tokenizer.chat_template)
    assert "teacher.chat_template=base leaves it out" in base.note


def test_what_transformers_would_load_is_what_is_read(tmp_path, teacher):
    config, tokenizer = teacher
    tokenizer.chat_template = OTHER
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert adapter_template(config) == AutoTokenizer.from_pretrained(config.adapter).chat_template == OTHER


@pytest.mark.parametrize("ending", ["", "\n"])
def test_an_adapter_that_saved_the_bases_template_says_nothing(tmp_path, teacher, ending):
    config, tokenizer = teacher
    as_file(tmp_path / "adapter", tokenizer.chat_template + ending)
    assert choose(config, tokenizer).source == "base" and choose(config, tokenizer).note == ""


def test_a_base_model_without_template_takes_the_adapters_or_a_file(tmp_path, teacher):
    config, tokenizer = teacher
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"no chat template; expected an instruct model .* or a file"):
        choose(config, tokenizer)
    (tmp_path / "mine.jinja").write_text(OTHER)
    named = choose(config.model_copy(update={"chat_template": str(tmp_path / "mine.jinja")}), tokenizer)
    assert named.source == str(tmp_path / "mine.jinja") and named.template.text == OTHER
    as_file(tmp_path / "adapter", OTHER)
    assert choose(config, tokenizer).source == "adapter"


def test_a_template_at_a_url_is_read(tmp_path, teacher):
    config, tokenizer = teacher
    (tmp_path / "mine.jinja").write_text(OTHER)
    assert choose(config.model_copy(update={"chat_template": f"file://{tmp_path}/mine.jinja"}), tokenizer).source


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"chat_template": "adapter", "adapter": ""}, r"teacher\.adapter is empty; set teacher\.chat_template=base"),
        ({"chat_template": "adapter"}, r"adapter has none; expected chat_template\.jinja, or tokenizer_config"),
        ({"chat_template": "none.jinja"}, r"teacher\.chat_template=none\.jinja: no such file; expected a Jinja file"),
        ({"chat_template": "bytes.jinja"}, r"cannot be read \(UnicodeDecodeError\); expected"),
        ({"chat_template": "broken.jinja"}, r"^teacher\.chat_template=broken\.jinja: not a Jinja template \(line 2: "),
        (
            {"template_arguments": {"enable_thinking": False}},
            r"arguments\.enable_thinking: .*base_model's chat template",
        ),
    ],
)
def test_a_template_that_is_not_there_is_refused_in_one_line(tmp_path, teacher, monkeypatch, settings, says):
    config, tokenizer = teacher
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes.jinja").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}\n{% endif %}")
    with pytest.raises(ConfigError, match=says) as error:
        load_prompter(config.model_copy(update=settings), tokenizer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ['{"chat_template": ', '{"chat_template": [{"name": "rag", "template": "x"}]}'])
def test_a_template_of_the_adapter_that_cannot_be_read_is_refused(tmp_path, teacher, content):
    config, tokenizer = teacher
    (tmp_path / "adapter" / "tokenizer_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"^teacher\.adapter=.*(cannot be read|no default)"):
        choose(config, tokenizer)


def test_without_settings_the_prompts_are_those_of_before(teacher):
    config, tokenizer = teacher
    given = ["Name."] * 2, ["Sepsis", "long " * 2000]
    assert load_prompter(config, tokenizer).encode(*given) == Prompter(tokenizer, config.max_length).encode(*given)
