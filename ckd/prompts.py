"""The teacher's prompt as token ids: the chat template around instruction, newline and input.

A visit that is too long loses text from the end of its input, never the template's tail. A text that spells a control
token (`<|im_end|>`) becomes that token, as in LLaMA-Factory's training: `with_control_tokens` counts such visits.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ckd.errors import ConfigError
from ckd.templates import ChatTemplate

PROMPT_VERSION = 1  # part of the embeddings' fingerprint: raise it when a prompt's tokens change
_SENTINEL = "\u241e\u241f\u241evisit"  # ends in a letter, as most texts do where they are cut


class Prompter:
    """Turns visits into token ids with a transformers tokenizer and a chat template (without one: the tokenizer's own).

    Raises ConfigError when the template is missing or cannot be used, or when it does not show the user's text.
    """

    def __init__(self, tokenizer: Any, max_length: int, template: ChatTemplate | None = None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.template = template or ChatTemplate(own_template(tokenizer), tokens=tokenizer.special_tokens_map)
        self.template.check()
        before, found, self._tail = self.template.render(_SENTINEL).rpartition(_SENTINEL)
        if not found:
            raise ConfigError(f"{self.template.where}: drops the user's text; expected an instruct model's template")
        self._begin = len(before)
        # Encoded alone, a tail of a SentencePiece tokenizer would begin with a space that no prompt has there.
        body, whole = self._encode([before + _SENTINEL, before + _SENTINEL + self._tail])
        stands_alone = whole[: len(body)] == body and (whole != body or not self._tail.strip())
        self._tail_ids = whole[len(body) :] if stands_alone else None

    def encode(self, instructions: Sequence[str], inputs: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each visit's prompt (at most max_length each) and how many prompts were truncated.

        Raises ConfigError when template and instruction alone exceed max_length.
        """
        texts = [self.template.render(content(i, t)) for i, t in zip(instructions, inputs, strict=True)]
        prompts = self._encode(texts)
        too_long = [n for n, ids in enumerate(prompts) if len(ids) > self.max_length]
        for n in too_long:
            prompts[n] = self._truncate(texts[n], prompts[n], instructions[n])
        return prompts, len(too_long)

    def with_control_tokens(self, instructions: Sequence[str], inputs: Sequence[str]) -> int:
        """How many visits spell one of the tokenizer's control tokens in their text."""
        return sum(bool(self._control.search(content(i, t))) for i, t in zip(instructions, inputs, strict=True))

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """The special tokens, and the template's own marks among the other added ones (Qwen3's `<think>`)."""
        literals = self.template.literals
        tokens = [
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special or (token.content[:1] in ("<", "[") and token.content in literals)
        ]
        return re.compile("|".join(map(re.escape, tokens)) or "(?!)")

    def _truncate(self, text: str, ids: list[int], instruction: str) -> list[int]:
        """The first of a prompt's `ids`, so many that the template's tail still fits behind them."""
        if self._tail_ids is None:
            raise ConfigError(
                f"teacher.max_length={self.max_length}: a visit is longer, and {self.template.where} runs the user's "
                "text and its own into one token, so that it cannot be cut; raise teacher.max_length"
            )
        body = text[: len(text) - len(self._tail)]
        room = self.max_length - len(self._tail_ids)
        instruction_end = body.find(instruction.strip(), self._begin) + len(instruction.strip())
        needed = len(self._encode([body[:instruction_end]])[0])
        if room < needed:
            raise ConfigError(
                f"teacher.max_length={self.max_length}: template and instruction alone need "
                f"{needed + len(self._tail_ids)} tokens; raise teacher.max_length"
            )
        return ids[:room] + self._tail_ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # The template already holds every special token; adding them again would double a begin-of-text token.
        found = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]


def own_template(tokenizer: Any, where: str = "teacher.base_model") -> str:
    """The tokenizer's chat template, of several named ones the default. Raises ConfigError when there is none."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        if "default" not in found:
            raise ConfigError(
                f"{where}: its tokenizer has the chat templates {', '.join(sorted(found))} and no default; "
                "give the file of the one used in training as teacher.chat_template"
            )
        found = found["default"]
    if not found:
        raise ConfigError(
            f"{where}: its tokenizer has no chat template; "
            "expected an instruct model such as Qwen/Qwen2.5-7B-Instruct, or a file as teacher.chat_template"
        )
    return str(found)


def content(instruction: str, text: str) -> str:
    """The user's message: instruction, newline, input; where one is empty the other alone, as LLaMA-Factory does."""
    return "\n".join(part for part in (instruction, text) if part)
