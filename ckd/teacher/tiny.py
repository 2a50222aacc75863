"""Makes a small Qwen2-shaped teacher for the demo and the tests: tokenizer, base model, LoRA adapter.

It stands in for a 7B model in shape only. The base learns to read (next token), the adapter learns the labels through a
head that is thrown away.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils import logging

from ckd.prompts import Prompter
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import digest
from ckd.visits.labels import INSTRUCTION

# Phrases end before these marks, which open the next one: a visit becomes a few dozen tokens and nothing is lost.
_MARKS = r"(?=, |; |: |\. |\.$| are | is )"
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_SYSTEM = "system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>" + _SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MAX_LENGTH = 512
_POSITIONS = 512  # next-token losses per batch: the vocabulary is the dearest part of a model this small


@dataclass(frozen=True)
class TeacherSize:
    """Geometry and training of the tiny teacher. Zero steps leave a part as initialised (LoRA: small, not zero)."""

    hidden: int = 128
    layers: int = 2
    vocabulary: int = 1000
    phrases: int = 3000
    rank: int = 16
    batch: int = 32
    base_steps: int = 200
    adapter_steps: int = 1200
    base_step_size: float = 3e-3
    adapter_step_size: float = 2e-3


UNTRAINED = TeacherSize(hidden=32, vocabulary=600, phrases=100, rank=4, base_steps=0, adapter_steps=0)


def make_teacher(
    folder: str, inputs: Sequence[str], labels: np.ndarray, seed: int, size: TeacherSize = TeacherSize()
) -> FolderArtifact:
    """Write `<folder>/base` and `<folder>/adapter` unless they are there; the adapter learns `labels` [visits, L].

    Raises ArtifactError when the folder holds a teacher made otherwise.
    """
    fields = {
        "tiny": "teacher 1",
        "seed": seed,
        "data": digest([list(inputs), np.asarray(labels, int).tolist()]),
        **asdict(size),
    }
    artifact = FolderArtifact(folder, fields)
    if artifact.is_done():
        return artifact
    logging.disable_progress_bar()
    base, adapter = Path(folder) / "base", Path(folder) / "adapter"
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        tokenizer = _tokenizer(inputs, size)
        model = Qwen2ForCausalLM(_config(tokenizer, size))
        prompts = _Prompts(tokenizer, inputs, labels, size.batch, seed)
        _train_base(model, prompts, size)
        tokenizer.save_pretrained(base)
        model.save_pretrained(base)
        tuned = _with_adapter(model, size, str(base))
        _train_adapter(tuned, prompts, size)
        tuned.save_pretrained(adapter)
    artifact.commit(
        [f"{part.name}/{file.name}" for part in (base, adapter) for file in sorted(part.iterdir()) if file.is_file()]
    )
    return artifact


@contextmanager
def _one_thread() -> Iterator[None]:
    """Equal weights on every machine; a second thread gains a third on an idle machine and loses much on a busy one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tokenizer(inputs: Sequence[str], size: TeacherSize) -> Any:
    """Qwen's own pre-tokenizer with a small vocabulary of byte pairs; the most frequent phrases become whole tokens."""
    empty = Qwen2Tokenizer(eos_token=_SPECIAL[2], model_max_length=32768)
    tokenizer = empty.train_new_from_iterator([*inputs, INSTRUCTION, _SYSTEM], size.vocabulary)
    counted = Counter(
        piece for text in [*inputs, INSTRUCTION, INSTRUCTION] for piece in re.split(_MARKS, text) if len(piece) > 1
    )
    phrases = [phrase for phrase, count in counted.most_common(size.phrases) if count > 1]
    phrases += [_SYSTEM, "user\n", "assistant\n"]
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _config(tokenizer: Any, size: TeacherSize) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=2 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=size.hidden**-0.5 / 2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _with_adapter(model: Any, size: TeacherSize, base: str) -> Any:
    lora = LoraConfig(
        r=size.rank,
        lora_alpha=2 * size.rank,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
        init_lora_weights=size.adapter_steps > 0,  # untrained: random, so that the adapter still changes embeddings
    )
    tuned = get_peft_model(model, lora)
    tuned.peft_config["default"].base_model_name_or_path = base
    return tuned


class _Prompts:
    """The training prompts in batches of like length, shuffled anew each pass."""

    def __init__(self, tokenizer: Any, inputs: Sequence[str], labels: np.ndarray, batch: int, seed: int) -> None:
        self.ids, _ = Prompter(tokenizer, _MAX_LENGTH).encode([INSTRUCTION] * len(inputs), inputs)
        self.labels = torch.from_numpy(np.asarray(labels, np.float32))
        if self.labels.ndim != 2 or len(self.labels) != len(inputs):
            raise ValueError(f"labels have shape {tuple(self.labels.shape)}, expected ({len(inputs)}, L)")
        self.pad, self.size, self.rng = tokenizer.pad_token_id, batch, np.random.default_rng(seed)

    def batches(self, steps: int) -> Any:
        """`steps` batches of (ids [B, T], lengths [B], labels [B, L])."""
        done = 0
        while done < steps:
            order = self.rng.permutation(len(self.ids))
            windows = np.array_split(order, max(1, len(order) // (self.size * 32)))
            alike = np.concatenate([w[np.argsort([len(self.ids[i]) for i in w], kind="stable")] for w in windows])
            groups = [alike[at : at + self.size] for at in range(0, len(alike), self.size)]
            for number in self.rng.permutation(len(groups))[: steps - done]:
                rows = groups[number]
                padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(self.ids[i]) for i in rows], True, self.pad)
                yield padded, torch.tensor([len(self.ids[i]) for i in rows]), self.labels[rows]
                done += 1


def _train_base(model: Any, prompts: _Prompts, size: TeacherSize) -> None:
    """Next-token prediction; padding lies to the right, so causal attention needs no mask."""
    optimizer, schedule = _optimizer(model.parameters(), size.base_step_size, size.base_steps)
    for ids_BT, lengths_B, _ in prompts.batches(size.base_steps):
        states_BTH = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
        real = (torch.arange(1, ids_BT.shape[1]) < lengths_B[:, None]).flatten().nonzero().squeeze(1)
        some = real[torch.randperm(len(real))[:_POSITIONS]]
        logits_NV = model.lm_head(states_BTH.flatten(0, 1)[some])
        loss = torch.nn.functional.cross_entropy(logits_NV, ids_BT[:, 1:].flatten()[some])
        _step(loss, optimizer, schedule)
    model.eval().requires_grad_(False)


def _train_adapter(tuned: Any, prompts: _Prompts, size: TeacherSize) -> None:
    """Labels from the last token's state after the final norm, through a head that is thrown away."""
    decoder = tuned.get_base_model().model
    head = torch.nn.Linear(size.hidden, prompts.labels.shape[1])
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimizer, schedule = _optimizer([*trained, *head.parameters()], size.adapter_step_size, size.adapter_steps)
    for ids_BT, lengths_B, labels_BL in prompts.batches(size.adapter_steps):
        states_BTH = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits_BL = head(states_BTH[torch.arange(len(ids_BT)), lengths_B - 1])
        _step(torch.nn.functional.binary_cross_entropy_with_logits(logits_BL, labels_BL), optimizer, schedule)
    tuned.eval()


def _optimizer(weights: Any, peak: float, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(weights, lr=peak, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=max(steps, 1), pct_start=0.1)


def _step(loss: torch.Tensor, optimizer: Any, schedule: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    schedule.step()
