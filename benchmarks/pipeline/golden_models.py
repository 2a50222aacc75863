"""Tiny models for the golden set: a 2-layer Qwen2 with a LoRA adapter, and a 2-layer BERT without a head.

Seeded and untrained. Made by this file and not by the tree under test, so that both trees get the same weights; it
takes 5 seconds.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SEED = 11
TEACHER, ADAPTER, STUDENT = "models/teacher/base", "models/teacher/adapter", "models/student"
_CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_models(work: Path, visits: Path) -> None:
    """Write teacher, adapter and student below `work`, with the words of the public JSONL `visits` as vocabulary."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in visits.read_text(encoding="utf-8").splitlines()]
    texts = [f"{row['instruction']}\n{row['input']}" for row in rows]
    _make_teacher(work, _words(texts))
    _make_student(work, _words(text.lower() for text in texts))


def _words(texts: Iterable[str]) -> list[str]:
    """Most words; every fifth is left out, so that it becomes an unknown token or pieces."""
    from tokenizers.pre_tokenizers import Whitespace

    split = Whitespace().pre_tokenize_str
    words = sorted({word for text in texts for word, _ in split(text)})
    return [word for place, word in enumerate(words) if place % 5]


def _make_teacher(work: Path, words: Sequence[str]) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {
        token: place for place, token in enumerate(dict.fromkeys([*_CHAT, "[UNK]", "user", "assistant", *words]))
    }
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=_CHAT[2],
        pad_token=_CHAT[0],
        unk_token="[UNK]",
        model_max_length=2048,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": _CHAT})
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(SEED)
    settings = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(settings)
    tokenizer.save_pretrained(work / TEACHER)
    model.save_pretrained(work / TEACHER)
    _make_adapter(work, model)


def _make_adapter(work: Path, model: Any) -> None:
    """A LoRA adapter that changes embeddings: its B is random, not zero."""
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "down_proj"]
    lora = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False
    )
    tuned = get_peft_model(model, lora)
    tuned.peft_config["default"].base_model_name_or_path = TEACHER
    tuned.save_pretrained(work / ADAPTER)
    path = work / ADAPTER / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["target_modules"] = sorted(
        settings["target_modules"]
    )  # peft writes a set, in the order of the process's hash seed
    path.write_text(json.dumps(settings, indent=1, sort_keys=True))


def _make_student(work: Path, words: Sequence[str]) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    folder = work / STUDENT
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({letter for word in words for letter in word})
    tokens = list(dict.fromkeys([*_BERT, *letters, *(f"##{letter}" for letter in letters), *words]))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    torch.manual_seed(SEED + 1)
    settings = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.1,
        pad_token_id=0,
    )
    BertForMaskedLM(settings).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 256})
    )
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
