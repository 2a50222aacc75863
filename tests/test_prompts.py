"""Prompts: the template's tail survives any truncation, and only visit text is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ckd.errors import ConfigError
from ckd.prompts import Prompter

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
INSTRUCTION = "Name the diseases."


@pytest.fixture(scope="module")
def tokenizer(teacher_folder):
    return AutoTokenizer.from_pretrained(f"{teacher_folder}/base")


def whole(tokenizer, instruction, text):
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{instruction}\n{text}"}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_a_prompt_that_fits_is_the_chat_template(tokenizer, texts):
    prompts, cut = Prompter(tokenizer, 10_000).encode([INSTRUCTION] * len(texts), texts)
    assert cut == 0
    assert prompts == [whole(tokenizer, INSTRUCTION, text) for text in texts]


@given(text=TEXT, room=st.integers(0, 60))
def test_truncation_keeps_the_generation_prompt_and_a_prefix_of_the_visit(tokenizer, text, room):
    tail = tokenizer("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    fixed = len(whole(tokenizer, INSTRUCTION, "")) + 2
    full = whole(tokenizer, INSTRUCTION, text)
    (prompt,), cut = Prompter(tokenizer, fixed + room).encode([INSTRUCTION], [text])
    assert len(prompt) == min(len(full), fixed + room)
    assert cut == (len(full) > fixed + room)
    assert prompt[-len(tail) :] == tail
    assert prompt[: -len(tail)] == full[: len(prompt) - len(tail)]


def test_a_max_length_below_the_instruction_is_refused(tokenizer):
    with pytest.raises(
        ConfigError, match=r"teacher\.max_length=12: template and instruction alone need \d+ tokens"
    ) as error:
        Prompter(tokenizer, 12).encode([INSTRUCTION], ["MARKERPATIENT " * 20])
    assert "MARKER" not in str(error.value)


def test_a_tokenizer_without_chat_template_is_refused(teacher_folder):
    plain = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    plain.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        Prompter(plain, 100)
