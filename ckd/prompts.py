"""The teacher's prompt as token ids: the chat template around instruction, newline and input.

A visit that is too long loses text from the end of its input, never the template's tail.
"""

from collections.abc import Sequence
from typing import Any

from ckd.errors import ConfigError

PROMPT_VERSION = 1  # part of the embeddings' fingerprint: raise it when a prompt's tokens change
_SENTINEL = "\u241e\u241f\u241e"


class Prompter:
    """Turns visits into token ids with a transformers tokenizer that has a chat template.

    Raises ConfigError when the template is missing, or when it does not end in a fixed tail after the user's text.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "teacher.base_model: its tokenizer has no chat template; "
                "expected an instruct model such as Qwen/Qwen2.5-7B-Instruct"
            )
        _, found, self._tail = self._render(_SENTINEL).rpartition(_SENTINEL)
        if not found:
            raise ConfigError(
                "teacher.base_model: its chat template drops the user's text; expected an instruct model's template"
            )
        self._tail_ids = self._encode([self._tail])[0]

    def encode(self, instructions: Sequence[str], inputs: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each visit's prompt (at most max_length each) and how many prompts were truncated.

        Raises ConfigError when template and instruction alone exceed max_length.
        """
        texts = [self._render(content(i, t)) for i, t in zip(instructions, inputs, strict=True)]
        prompts = self._encode(texts)
        too_long = [n for n, ids in enumerate(prompts) if len(ids) > self.max_length]
        for n in too_long:
            prompts[n] = self._truncate(texts[n], instructions[n])
        return prompts, len(too_long)

    def _truncate(self, text: str, instruction: str) -> list[int]:
        body = text[: len(text) - len(self._tail)]
        room = self.max_length - len(self._tail_ids)
        instruction_end = body.find(instruction.strip()) + len(instruction.strip())
        needed = len(self._encode([body[:instruction_end]])[0])
        if room < needed:
            raise ConfigError(
                f"teacher.max_length={self.max_length}: template and instruction alone need "
                f"{needed + len(self._tail_ids)} tokens; raise teacher.max_length"
            )
        return self._encode([body])[0][:room] + self._tail_ids

    def _render(self, text: str) -> str:
        message = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # The template already holds every special token; adding them again would double a begin-of-text token.
        found = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]


def content(instruction: str, text: str) -> str:
    """The user's message: instruction, newline, input (the instruction alone when the input is empty)."""
    return f"{instruction}\n{text}" if text else instruction
