"""The probes in the embeddings' fingerprint: other tokens are refused by name, and no clock changes any."""

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ckd.config import TeacherConfig
from ckd.configfile import load
from ckd.errors import ConfigError, MismatchError
from ckd.run import Run
from ckd.teacher import prompt_identity
from ckd.teacher.embed import EmbedWorker, teacher_fields
from ckd.teacher.prompt_identity import identity, prompt_fields
from tests.teacher.embedded import embedded, visits

DATED = "{{ messages[0]['content'] }} {{ strftime_now('%d %B %Y %A') }}<|im_end|>"
ARGUED = "{{ messages[0]['content'] }}{% if quiet %}<|im_end|>{% endif %}<|im_start|>"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ckd" / "prompts"


@pytest.fixture
def teacher(tmp_path, teacher_folder, cache):
    (tmp_path / "argued.jinja").write_text(ARGUED)
    return TeacherConfig(base_model=f"{teacher_folder}/base", chat_template=str(tmp_path / "argued.jinja"))


def loaded(monkeypatch):
    """A list that grows with each tokenizer that is loaded."""
    calls, real = [], prompt_identity.base_tokenizer
    monkeypatch.setattr(prompt_identity, "base_tokenizer", lambda config: calls.append(1) or real(config))
    return calls


def test_the_probes_are_remembered_and_a_damaged_entry_is_made_anew(teacher, cache, monkeypatch):
    calls = loaded(monkeypatch)
    first = identity(teacher, "t")
    assert identity(teacher, "t") == first and len(calls) == 1
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"[]", whole.replace(b'"tokens"', b'"token"'), b'{"identity": {}}'):
        entry.write_bytes(damaged)
        assert identity(teacher, "t") == first
        assert entry.read_bytes() == whole
    assert len(calls) == 6


def test_nothing_of_another_teacher_is_remembered(teacher, tmp_path, monkeypatch):
    calls = loaded(monkeypatch)
    identity(teacher, "t")
    others = [
        {"template_arguments": {"quiet": True}},
        {"chat_template": "base"},
        {"chat_template": "base", "system": "a"},
    ]
    for count, change in enumerate(others, start=2):
        identity(teacher.model_copy(update=change), "t")
        assert len(calls) == count
    identity(teacher, "another tokenizer")
    (tmp_path / "argued.jinja").write_text(ARGUED + "!")
    identity(teacher, "t")
    monkeypatch.setattr(prompt_identity, "version", lambda name: "99")
    identity(teacher, "t")
    assert len(calls) == 7


def test_where_nothing_can_be_remembered_the_fields_are_the_same(teacher, tmp_path, monkeypatch):
    expected = prompt_fields(teacher, "t")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert prompt_fields(teacher, "t") == expected


def test_what_changes_a_prompt_changes_a_field_of_its_name(teacher):
    before = prompt_fields(teacher, "t")
    for field, change in {
        "teacher.template_arguments": {"template_arguments": {"quiet": True}},
        "teacher.chat_template": {"chat_template": "base"},
    }.items():
        after = prompt_fields(teacher.model_copy(update=change), "t")
        assert {name for name in before if before[name] != after[name]} == {field, "prompt tokens"}
    base = teacher.model_copy(update={"chat_template": "base"})
    with_system = prompt_fields(base.model_copy(update={"system": "Be brief."}), "t")
    changed = {name for name, value in prompt_fields(base, "t").items() if value != with_system[name]}
    assert changed == {"teacher.system", "prompt tokens"}
    assert "brief" not in json.dumps(with_system)


def test_a_tokenizer_that_gives_other_tokens_is_another_teacher(teacher, tmp_path, teacher_folder):
    """As another version of a library might: the files' hash is the same here."""
    before = prompt_fields(teacher, "t")
    shutil.copytree(f"{teacher_folder}/base", tmp_path / "base")
    tokenizer = json.loads((tmp_path / "base" / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:20]
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps(tokenizer))
    after = prompt_fields(teacher.model_copy(update={"base_model": str(tmp_path / "base")}), "other")
    assert {name for name in before if before[name] != after[name]} == {"prompt tokens"}


def test_a_damaged_tokenizer_is_one_line(teacher, tmp_path, teacher_folder):
    shutil.copytree(f"{teacher_folder}/base", tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(ConfigError, match=r"teacher\.base_model=.*its tokenizer cannot be loaded") as error:
        identity(teacher.model_copy(update={"base_model": str(tmp_path / "base")}), "t")
    assert "\n" not in str(error.value)


def test_a_resume_check_neither_loads_a_tokenizer_nor_transformers(teacher, cache, tmp_path):
    overrides = [f"teacher.base_model={teacher.base_model}", f"teacher.chat_template={teacher.chat_template}"]
    code = (
        "import sys; from ckd.configfile import load; from ckd.teacher.embed import teacher_fields; "
        f"print(teacher_fields(load(None, {overrides!r}))['prompt tokens']); "
        "print(sorted({'transformers', 'torch', 'tokenizers'} & sys.modules.keys()))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
        for _ in range(2)
    )
    assert first[0] == second[0] and second[1] == "[]" and "transformers" in first[1]


def test_another_day_and_another_locale_give_the_same_bytes(tmp_path, teacher_folder, cache, monkeypatch):
    """The template names the date: a part made anew under another clock equals the first, byte for byte."""
    (tmp_path / "dated.jinja").write_text(DATED)
    models = [f"teacher.base_model={teacher_folder}/base", f"teacher.adapter={teacher_folder}/adapter"]
    overrides = [*models, f"teacher.chat_template={tmp_path}/dated.jinja", "teacher.dtype=float32"]
    config, cohort, _ = embedded(tmp_path, visits(["train"] * 6), overrides=overrides)
    (shard,) = cohort.shards
    worker = EmbedWorker(Run(config))
    stage = worker.stage
    stage.delete(shard.index)
    worker(shard)
    made = Path(stage.path(shard.index)).read_bytes()
    shutil.rmtree(cache)  # another day on another machine
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", InDecember)
    monkeypatch.setattr("ckd.templates.datetime", InDecember)
    tokenizer = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    messages = [{"role": "user", "content": "A"}]
    theirs = tokenizer.apply_chat_template(messages, chat_template=DATED, tokenize=False)
    assert theirs == "A 03 Dezember 2031 Mittwoch<|im_end|>", "the fake clock works"
    again = EmbedWorker(Run(config))
    assert again.stage.missing([shard]) == []
    again.stage.delete(shard.index)
    again(shard)
    assert Path(stage.path(shard.index)).read_bytes() == made


class InDecember(datetime):
    """A clock of another year whose locale is German."""

    @classmethod
    def now(cls, tz=None):
        return cls(2031, 12, 3, 4, 5, 6)

    def strftime(self, form):
        return super().strftime(form.replace("%B", "Dezember").replace("%A", "Mittwoch"))


def test_parts_of_other_prompts_are_refused_by_the_field_that_differs(tmp_path, teacher, teacher_folder):
    overrides = [f"teacher.base_model={teacher_folder}/base", f"teacher.chat_template={teacher.chat_template}"]
    config, cohort, _ = embedded(tmp_path, visits(["train"] * 6), overrides=[*overrides, "teacher.dtype=float32"])
    worker = EmbedWorker(Run(config))
    worker.stage.delete(0)
    worker(cohort.shards[0])
    quiet = load(None, [*overrides, f"run.results={tmp_path}", "run.name=t", "teacher.template_arguments.quiet=true"])
    with pytest.raises(MismatchError, match=r"made with .*prompt tokens=|made with .*template_arguments="):
        EmbedWorker(Run(quiet)).stage.missing(cohort.shards)
    assert teacher_fields(quiet)["teacher.template_arguments"] == '{"quiet": true}'
