"""A small BERT made locally, for the demo and the tests: WordPiece tokenizer, an encoder that has read some text (masked tokens), and a
fresh 25-label classifier. Which texts it reads is the caller's business; it sees no label."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging

from ckd.labels import DISEASES
from ckd.store import FolderArtifact, digest

# Names and phrases stay whole between these marks, so that a visit is a few dozen tokens.
_MARKS = r", |; |: |\. |\.$| are | is "
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_MASKED = 0.3
_IGNORED = -100  # torch's cross-entropy passes over this target


@dataclass(frozen=True)
class StudentSize:
    """Geometry and reading of the tiny student; zero steps leave the encoder as initialised."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    vocabulary: int = 3000
    positions: int = 512
    dropout: float = 0.1
    batch: int = 64
    steps: int = 400
    step_size: float = 2e-3


UNTRAINED = StudentSize(hidden=32, heads=2, vocabulary=600, steps=0)


def make_student(folder: str, inputs: Sequence[str], seed: int, size: StudentSize = StudentSize()) -> FolderArtifact:
    """Write model and tokenizer into `folder` unless they are there; both learn from `inputs` alone.

    Raises ArtifactError when the folder holds a student made otherwise.
    """
    artifact = FolderArtifact(folder, {"tiny": "student 1", "seed": seed, "data": digest(list(inputs)), **asdict(size)})
    if artifact.is_done():
        return artifact
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(inputs, size)
        reader = BertForMaskedLM(_config(tokenizer, size))
        _read(reader, tokenizer, inputs, seed, size)
        student = BertForSequenceClassification(reader.config)
        student.bert.load_state_dict(reader.bert.state_dict(), strict=False)  # the pooler stays fresh: reading has none
    tokenizer.save_pretrained(folder)
    student.save_pretrained(folder)
    artifact.commit(sorted(file.name for file in Path(folder).iterdir() if file.is_file()))
    return artifact


def _tokenizer(inputs: Sequence[str], size: StudentSize) -> Any:
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=200))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(_MARKS), "removed")
    raw.train_from_iterator(inputs, trainers.WordPieceTrainer(vocab_size=size.vocabulary, special_tokens=_SPECIAL, show_progress=False))
    ends = [(token, raw.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{token[1:-1].lower()}_token": token for token in _SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=size.positions, **names)


def _config(tokenizer: Any, size: StudentSize) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=2 * size.hidden,
        max_position_embeddings=size.positions,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.dropout,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(DISEASES)),
        label2id={name: i for i, name in enumerate(DISEASES)},
        problem_type="multi_label_classification",
    )


def _read(reader: Any, tokenizer: Any, inputs: Sequence[str], seed: int, size: StudentSize) -> None:
    """Tell masked tokens from their surroundings, for `size.steps` batches of visits of like length."""
    rng = np.random.default_rng(seed)
    ids = [torch.tensor(row) for row in tokenizer(list(inputs), truncation=True, max_length=size.positions)["input_ids"]] if size.steps else []
    order = np.argsort([len(row) for row in ids], kind="stable")
    optimizer = torch.optim.AdamW(reader.parameters(), lr=size.step_size, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, size.step_size, total_steps=max(size.steps, 1), pct_start=0.1)
    reader.train()
    for _ in range(size.steps):
        start = rng.integers(0, max(1, len(ids) - size.batch))
        ids_BT = torch.nn.utils.rnn.pad_sequence([ids[i] for i in order[start : start + size.batch]], True, tokenizer.pad_token_id)
        hidden_BT = (torch.rand(ids_BT.shape) < _MASKED) & (ids_BT >= len(_SPECIAL))
        masked_BT = ids_BT.masked_fill(hidden_BT, tokenizer.mask_token_id)
        targets_BT = ids_BT.masked_fill(~hidden_BT, _IGNORED)
        loss = reader(input_ids=masked_BT, attention_mask=(ids_BT != tokenizer.pad_token_id).long(), labels=targets_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
