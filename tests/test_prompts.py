"""Prompts: the template's tail survives any truncation, and only visit text is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ckd.errors import ConfigError
from ckd.prompts import Prompter, content
from ckd.templates import ChatTemplate
from testbed.small_tokenizers import byte_level, sentencepiece

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


@pytest.mark.parametrize(("instruction", "system"), [("", ""), (INSTRUCTION, INSTRUCTION)])
def test_what_stands_before_the_visit_is_never_cut(tokenizer, instruction, system):
    template = ChatTemplate(tokenizer.chat_template, "t", tokenizer.special_tokens_map, system)
    (shortest,), _ = Prompter(tokenizer, 10_000, template).encode([instruction], ["x"])
    with pytest.raises(ConfigError, match="template and instruction alone need"):
        Prompter(tokenizer, len(shortest) - 4, template).encode([instruction], ["x" * 200])


@pytest.mark.parametrize(("parts", "message"), [(("a", "b"), "a\nb"), (("a", ""), "a"), (("", "b"), "b")])
def test_the_message_joins_what_is_there_as_llama_factory_does(parts, message):
    assert content(*parts) == message


def test_a_tokenizer_without_chat_template_is_refused(teacher_folder):
    plain = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    plain.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        Prompter(plain, 100)


INST = "{{ bos_token }}[INST] {{ messages[-1]['content'] }} [/INST]"
VICUNA = "{{ bos_token }}USER: {{ messages[-1]['content'] }}\nASSISTANT:"
LONG = "the patient had Sepsis " * 9
PLAIN = "USER: {{ messages[-1]['content'] }}</s>\n"


@pytest.mark.parametrize("scheme", ["first", "always", "legacy"])
@pytest.mark.parametrize("text", [INST, VICUNA, PLAIN])
@pytest.mark.parametrize("special", [["<s>", "</s>"], ["<s>", "</s>", "[INST]", "[/INST]"]])
def test_a_tail_that_is_cut_to_has_the_tokens_of_a_whole_prompt(scheme, text, special):
    """A SentencePiece tokenizer puts a space before what is encoded alone."""
    tokenizer = sentencepiece(special, scheme, bos="<s>")
    template = ChatTemplate(text, tokens=tokenizer.special_tokens_map)
    prompter = Prompter(tokenizer, 1000, template)
    (long, short), _ = prompter.encode([INSTRUCTION] * 2, [LONG, "the operation"])
    rendered = template.render(f"{INSTRUCTION}\nthe operation")
    end = rendered.index("operation") + len("operation")
    places = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    tail = short[sum(start < end for start, _ in places) :]
    assert len(tail) >= 1
    for room in range(len(short), len(long)):
        (prompt,), cut = Prompter(tokenizer, room, template).encode([INSTRUCTION], [LONG])
        assert cut == 1
        assert prompt == long[: room - len(tail)] + tail


def test_a_template_with_begin_of_text_has_it_once():
    tokenizer = sentencepiece(["<s>", "</s>"], "first", bos="<s>")
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    (prompt,), _ = Prompter(tokenizer, 100, ChatTemplate(INST, tokens=tokenizer.special_tokens_map)).encode(
        [INSTRUCTION], ["Sepsis"]
    )
    assert prompt[0] == tokenizer.bos_token_id and prompt.count(tokenizer.bos_token_id) == 1


def test_a_template_that_cannot_be_parted_from_the_visit_is_refused_where_a_visit_is_cut(teacher_folder):
    tokenizer = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    tokenizer.add_tokens(["visit." + "END"])
    prompter = Prompter(tokenizer, 60, ChatTemplate("{{ messages[-1]['content'] }}.END"))
    assert prompter.encode([INSTRUCTION], ["short"])[1] == 0
    with pytest.raises(ConfigError, match=r"so that it cannot be cut; raise teacher\.max_length"):
        prompter.encode([INSTRUCTION], ["MARKERPATIENT " * 40])


def test_a_visit_that_spells_a_control_token_gets_it_as_in_training_and_is_counted():
    tokenizer = byte_level(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<think>", "Sepsis"])
    template = ChatTemplate("<|im_start|>{{ messages[-1]['content'] }}<|im_end|>\n{% if t %}<think>{% endif %}")
    prompter = Prompter(tokenizer, 100, template)
    texts = ["a <|im_end|> b", "<think>", "Sepsis <|im_end", "im_end <tink>", "None"]
    prompts, _ = prompter.encode([INSTRUCTION] * 5, texts)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert [ids.count(end) for ids in prompts] == [2, 1, 1, 1, 1]
    assert prompts[0] == tokenizer(f"<|im_start|>{INSTRUCTION}\n{texts[0]}<|im_end|>\n")["input_ids"]
    assert prompter.with_control_tokens([INSTRUCTION] * 5, texts) == 2
    assert prompter.with_control_tokens(["<|im_start|>"], ["None"]) == 1


def test_of_several_named_templates_the_default_is_taken_or_none(teacher_folder):
    several = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    expected = whole(several, INSTRUCTION, "Sepsis")
    several.chat_template = {"tool_use": "{{ tools }}", "default": several.chat_template}
    assert Prompter(several, 1000).encode([INSTRUCTION], ["Sepsis"])[0] == [expected]
    several.chat_template = {"tool_use": "{{ tools }}", "rag": "{{ documents }}"}
    with pytest.raises(ConfigError, match=r"the chat templates rag, tool_use and no default; give the file"):
        Prompter(several, 100)


def test_a_template_that_drops_the_visit_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"^x: drops the user's text"):
        Prompter(tokenizer, 100, ChatTemplate("hello", "x"))
