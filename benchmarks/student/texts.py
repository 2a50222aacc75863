"""Made-up visits as text, and two tokenizers that cut them into the measured numbers of tokens; no download.

Speed from text to answer depends only on lengths. The teacher's prompts get the lengths of teacher/prompts.py. The
student's follow from them, since a number is one token for WordPiece and several for Qwen's tokenizer, which splits
digits. Measured on MIMIC-III visits: the student's input has a median of 440 tokens and 36 % exceed 512.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.teacher.prompts import PREFIX, lengths
from ckd.prompts import Prompter
from ckd.teacher.prefix import shared_prefix
from ckd.visits.labels import INSTRUCTION

WORDS = 3000
TOKENS_PER_NUMBER = 75  # of the teacher's: puts the student's median at the measured one
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEMPLATE = (
    "{{ '<|im_start|>system\n%s<|im_end|>\n' }}{%% for message in messages %%}"
    "{{ '<|im_start|>user\n' + message['content'] + '<|im_end|>\n' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\n' }}{%% endif %%}"
)


@dataclass(frozen=True)
class Visits:
    """The texts, and what cuts them: `prompter` for the teacher, `wordpiece` for the student."""

    inputs: list[str]
    prompter: Prompter
    wordpiece: Any

    def prompts(self) -> list[list[int]]:
        """The teacher's token ids."""
        return self.prompter.encode([INSTRUCTION] * len(self.inputs), self.inputs)[0]


def make_visits(count: int, max_length: int, shorter: int = 1, seed: int = 0) -> Visits:
    """`count` visits whose prompts have the measured lengths, in random order; `shorter` divides their own part."""
    rng = np.random.default_rng(seed)
    words = ["".join(letters) for letters in rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (WORDS, 6))]
    prompter = _prompter(words, max_length)
    fixed = len(prompter.encode([INSTRUCTION], [words[0]])[0][0]) - 1
    inputs = [_text(rng, words, max(int(length - fixed) // shorter, 4)) for length in rng.permutation(lengths(count))]
    return Visits(inputs, prompter, _wordpiece(words))


def _text(rng: np.random.Generator, words: list[str], tokens: int) -> str:
    """Words, and two-digit numbers between them. For Qwen a word with its space is one token, a number three."""
    numbers = tokens // TOKENS_PER_NUMBER
    parts = [words[i] for i in rng.integers(0, len(words), tokens - 3 * numbers)]
    for where in sorted(rng.integers(1, len(parts), numbers), reverse=True):
        parts.insert(where, str(rng.integers(10, 100)))
    return " ".join(parts)


def _prompter(words: list[str], max_length: int) -> Prompter:
    """Byte-pair encoding behind Qwen's pre-tokenizer, trained until each word is one token.

    A system text fills the prefix that all visits share to PREFIX tokens.
    """
    raw = Tokenizer(models.BPE())
    split, to_bytes = pre_tokenizers.Split(Regex(_QWEN), "isolated"), {"add_prefix_space": False, "use_regex": False}
    raw.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(**to_bytes)])
    raw.decoder = decoders.ByteLevel()
    special, alphabet = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    settings = {"special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=30_000, **settings)
    common = [INSTRUCTION + "\n system user assistant\n"] * 2
    raw.train_from_iterator([" ".join(words), "\n".join(words), *common], trainer)

    def made(filling: int) -> Prompter:
        template = _TEMPLATE % " ".join(words[:filling])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, eos_token="<|im_end|>")
        return Prompter(tokenizer, max_length)

    filling = 0
    while (missing := PREFIX - shared_prefix(made(filling).encode([INSTRUCTION] * 2, words[:2])[0])) > 0:
        filling += missing
    return made(filling)


def _wordpiece(words: list[str]) -> Any:
    """BERT's normalizer, pre-tokenizer and WordPiece over the same words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = dict.fromkeys([*special, *words, *map(str, range(10, 100))])
    raw = Tokenizer(models.WordPiece({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)
