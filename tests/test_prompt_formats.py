"""Our prompts are the ones that LLaMA-Factory trains on, character by character and token by token."""

import pytest

from ckd.prompts import Prompter
from ckd.templates import ChatTemplate
from testbed.prompt_formats import BOS, CASES, CONTENT
from testbed.small_tokenizers import byte_level, sentencepiece

SPLIT = CONTENT.split("\n", 1)
TOKENIZERS = {
    "byte-level": byte_level,
    "sentencepiece": lambda special, bos: sentencepiece(special, "first", bos=bos),
    "old sentencepiece": lambda special, bos: sentencepiece(special, "legacy", bos=bos),
}


def trained_on(tokenizer, prompt):
    """As LLaMA-Factory encodes it: the begin-of-text token as an id, then the text alone."""
    begins = prompt.startswith(BOS)
    ids = tokenizer.encode(prompt.removeprefix(BOS), add_special_tokens=False)
    return [tokenizer.bos_token_id, *ids] if begins else ids


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", CASES)
def test_a_prompt_is_the_one_that_llama_factory_trains_on(name, kind):
    case = CASES[name]
    tokenizer = TOKENIZERS[kind]([BOS, *case.special], bos=BOS)
    tokenizer.add_tokens(["<think>", "</think>"])
    template = ChatTemplate(case.template, "t", tokenizer.special_tokens_map, case.system, case.arguments)
    assert template.render(CONTENT) == case.prompt
    (prompt,), cut = Prompter(tokenizer, 4096, template).encode([SPLIT[0]], [SPLIT[1]])
    assert prompt == trained_on(tokenizer, case.prompt) and cut == 0
    theirs = tokenizer.apply_chat_template(
        ([{"role": "system", "content": case.system}] if case.system else []) + [{"role": "user", "content": CONTENT}],
        chat_template=case.template,
        add_generation_prompt=True,
        return_dict=False,
        **case.arguments,
    )
    assert prompt == theirs


@pytest.mark.parametrize("name", CASES)
def test_a_cut_prompt_ends_as_a_whole_one(name):
    case = CASES[name]
    tokenizer = byte_level([BOS, *case.special], bos=BOS)
    template = ChatTemplate(case.template, "t", tokenizer.special_tokens_map, case.system, case.arguments)
    (whole,), _ = Prompter(tokenizer, 4096, template).encode([SPLIT[0]], [SPLIT[1]])
    tail = trained_on(tokenizer, case.prompt[case.prompt.index(CONTENT) + len(CONTENT) :])
    (prompt,), cut = Prompter(tokenizer, len(whole) - 5, template).encode([SPLIT[0]], [SPLIT[1]])
    assert cut == 1 and prompt == whole[: len(whole) - 5 - len(tail)] + tail
