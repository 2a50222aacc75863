"""`ckd prompt`: the prompt of an invented visit, with what decides it; never a patient's."""

import os
import shutil

import pytest
import yaml
from transformers import AutoTokenizer

from ckd.prompts import Prompter
from ckd.visits.labels import INSTRUCTION
from jobs.cli import main
from jobs.prompt import VISITS
from testbed.rows import rows, write_jsonl

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


@pytest.fixture
def shown(tmp_path, teacher_folder, capsys, monkeypatch):
    """What `ckd prompt` prints, with a patient's text in data.train and nothing written."""
    shutil.copytree(f"{teacher_folder}/adapter", tmp_path / "adapter")
    (tmp_path / "thinks.jinja").write_text(THINKS)
    marked = [{**row, "input": "MARKERPATIENT"} for row in rows(0, 5, split="train")]
    train = write_jsonl(tmp_path / "train.json", marked)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    models = [f"teacher.base_model={teacher_folder}/base", f"teacher.adapter={tmp_path}/adapter"]

    def show(*words):
        code = main(["prompt", *models, f"data.train={train}", *words])
        out, err = capsys.readouterr()
        assert "MARKER" not in out + err and not os.listdir(tmp_path / "work")
        return code, out, err

    return show


@pytest.mark.parametrize("row", range(1, len(VISITS) + 1))
def test_every_invented_visit_is_shown_as_the_engines_get_it(shown, teacher_folder, row):
    code, out, _ = shown("--row", str(row), "teacher.max_length=400")
    tokenizer = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    (ids,), cut = Prompter(tokenizer, 400).encode([INSTRUCTION], [list(VISITS.values())[row - 1]])
    assert code == 0 and tokenizer.decode(ids) in out
    assert f"prompt: {len(ids)} tokens of at most teacher.max_length=400{', the visit' if cut else ''}" in out
    ends = [f"{token!r} {number}" for token, number in zip(tokenizer.convert_ids_to_tokens(ids), ids, strict=True)]
    assert (
        f"prompt: they begin with {', '.join(ends[:6])}" in out and f"prompt: and end in {', '.join(ends[-6:])}" in out
    )
    assert "prompt: template: base (" in out and "the template reads none" in out and "date: none is asked for" in out
    assert cut == (row == len(VISITS))


def test_template_system_and_arguments_are_shown(shown, tmp_path):
    file, system = f"teacher.chat_template={tmp_path}/thinks.jinja", "Be brief: name # only"
    code, out, _ = shown(file, f"teacher.system={system}", "teacher.template_arguments.enable_thinking=false")
    assert code == 0
    assert "<|im_start|>system\nBe brief: name # only<|im_end|>\n<|im_start|>user\n" in out
    assert "<|im_start|>assistant\n<think>\n\n</think>\n\n" in out
    assert f"template: {tmp_path}/thinks.jinja (" in out and f"teacher.system: {len(system)} characters" in out
    assert 'template_arguments: {"enable_thinking": false}; the template reads enable_thinking' in out


def test_the_date_is_shown_where_the_template_asks_for_it(shown, tmp_path):
    (tmp_path / "dated.jinja").write_text(THINKS + "{{ strftime_now('%d %b %Y') }}")
    _, out, _ = shown(f"teacher.chat_template={tmp_path}/dated.jinja")
    assert "date: 26 Jul 2024 for a template that asks" in out


def test_what_lies_beside_the_adapter_is_compared(shown, tmp_path):
    (tmp_path / "adapter" / "chat_template.jinja").write_text(THINKS)
    settings = {"template": "qwen3", "enable_thinking": False, "cutoff_len": 1536}
    (tmp_path / "adapter" / "training_args.yaml").write_text(yaml.safe_dump(settings))
    code, out, _ = shown()
    assert code == 0 and "template: adapter (" in out and "the adapter's is taken" in out
    assert out.rstrip().endswith("set teacher.template_arguments.enable_thinking=false")
    _, out, _ = shown("teacher.template_arguments.enable_thinking=false")
    assert "training_args" not in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--row", "9"], "--row 9: there are 4 invented visits; expected 1 to 4"),
        (["teacher.template_arguments.enable_thinkin=false"], "does not read it; it reads none"),
        (["teacher.chat_template=nowhere.jinja"], "nowhere.jinja: no such file"),
        (["teacher.base_model=/nowhere/model"], "teacher.base_model=/nowhere/model"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_2(shown, words, says):
    code, _, err = shown(*words)
    assert code == 2 and says in err and err.count("\n") == 1 and "Traceback" not in err
